"""Parses responses of the API, and maps failed requests to errors."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from typing import Any

import orjson
import pycurl

from ...core.errors import (
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from ..http.blocking import MAX_BYTES, BlockingResponse, RequestFailed
from ..http.headers import known_media_type, parse_retry_after
from ..http.tls import (
    certificate_failure,
    certificate_hint,
    handshake_failure,
    needs_http2,
    server_certificate_error,
)

_PERMANENT = frozenset({400, 404, 409, 410, 413, 422})
#: The API is overloaded and did not accept the request.
_BUSY = frozenset({425, 429, 503})
#: A redirect: the API did not accept the request. (With 303 it did.)
_MOVED = frozenset({301, 302, 307, 308})
#: The setting of the client certificate, for errors.
_CERTIFICATE = "API_CLIENT_CERT_FILE"
#: Why nothing was sent, by libcurl's error code.
_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "host name not found",
    pycurl.E_COULDNT_CONNECT: "connection refused or host unreachable",
    pycurl.E_SSL_CONNECT_ERROR: "TLS handshake failed",
}
_MAX_FIELDS = 10
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
#: The parts of ``answers.q1`` and ``answers[q1]``.
_STEPS = re.compile(r"[.\[\]]+")


@dataclass(frozen=True, slots=True)
class SubmissionWebhook:
    """A webhook endpoint in the API's response to a submission."""

    id: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    method: str
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SavedSubmission:
    """A submission as saved by the API.

    Attributes:
        webhooks: the endpoints to tell when the submission is completed.
        form_id, submitted_at, answers: None if the response does not have them.
    """

    id: str
    status: str
    webhooks: tuple[SubmissionWebhook, ...]
    form_id: str | None = None
    submitted_at: str | None = None
    answers: dict[str, Any] | None = field(default=None, repr=False)


def refuse(response: BlockingResponse, sent: Mapping[str, Any] | None = None) -> None:
    """Raise for any status other than 200 and 201.

    Args:
        response: the response.
        sent: the payload; the error may contain its field names.

    Raises:
        SinkError: the request was refused or failed.
    """
    status = response.status
    if status in (200, 201):
        return
    if status in (401, 403):
        raise SinkUnready(
            f"expected the API to accept API_TOKEN, it answered {status}: check the token",
            code=status,
            retry_after=_retry_after(response),
        )
    if wants := certificate_hint(status, response.body, _CERTIFICATE):
        raise SinkUnready(f"the API answered {status}: {wants}", code=status)
    if status in _PERMANENT:
        fields = _fields(response.body, sent or {})
        raise SinkPermanent(f"the API answered {status}{fields}", code=status)
    if 200 <= status < 400:
        kind = SinkUnready if status in _MOVED else SinkTransient
        hint = _redirect(response) if status >= 300 else ""
        raise kind(f"expected 200 or 201 from the API, got {status}{hint}", code=status)
    kind = SinkBusy if status in _BUSY else SinkTransient
    raise kind(f"the API answered {status}", code=status, retry_after=_retry_after(response))


def parse_json(response: BlockingResponse) -> dict[str, Any]:
    """The JSON object of a response with status 200 or 201.

    Raises:
        SinkTransient: the body is not a JSON object. Whether anything was saved is unknown.
    """
    code = response.status
    if not response.is_whole:
        raise SinkTransient(
            f"expected a response of at most {MAX_BYTES} bytes with {code} from the API, "
            "got a larger one",
            code=code,
        )
    kind = response.media_type
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {known_media_type(kind)}: "
            "check that API_URL is the API's address",
            code=code,
        )
    try:
        found = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {len(response.body)} bytes of something "
            "else: check whether the response was cut off or comes from a proxy",
            code=code,
        ) from None
    if not isinstance(found, dict):
        raise _wrong_shape()
    return found


def _wrong_shape() -> SinkTransient:
    """The error for JSON that is not a response of the API."""
    return SinkTransient(
        "expected {id, status, webhooks} from the API, got JSON of another shape: "
        "check API_URL and the API's version"
    )


def connection_error(error: RequestFailed, *, has_certificate: bool) -> SinkError:
    """The error for a request without a response, or with a part of one."""
    code, text = error.code, error.text
    if why := certificate_failure(code, text, _CERTIFICATE, has_certificate=has_certificate):
        return SinkUnready(f"expected to connect to the API, could not: {why}")
    if why := handshake_failure(code, text, _CERTIFICATE, has_certificate=has_certificate):
        return _unavailable(f"TLS handshake failed: {why}")
    if code == pycurl.E_PEER_FAILED_VERIFICATION:  # an operator has to renew the certificate
        return SinkUnready(
            "expected the API's TLS certificate to be valid, it is not "
            f"({server_certificate_error(text) or 'not trusted'}): nothing was sent"
        )
    if needs_http2(code, text):
        return _unavailable("it speaks only HTTP/2: allow HTTP/1.1")
    is_late = code == pycurl.E_OPERATION_TIMEDOUT
    if not error.was_sent and is_late:
        return SinkUnavailable("expected to connect to the API in time, could not")
    if not error.was_sent:
        return _unavailable(_REASONS.get(code, f"libcurl error {code}"))
    if is_late:
        return SinkTransient("expected the API to answer in time, it did not")
    if error.has_status:
        return SinkTransient(f"the response of the API broke off (libcurl error {code})")
    return SinkTransient("the connection to the API broke before its response")


def _unavailable(why: str) -> SinkUnavailable:
    return SinkUnavailable(f"expected to connect to the API, could not ({why})")


def _redirect(response: BlockingResponse) -> str:
    """The scheme of a redirect's target; the rest may contain payload values."""
    scheme, colon, _ = response.headers.get("location", "").strip().lower().partition(":")
    to = f" to {scheme}" if colon and scheme in ("http", "https") else ""
    return f", a redirect{to}, which is never followed: check API_URL"


def _retry_after(response: BlockingResponse) -> timedelta | None:
    return parse_retry_after(response.headers.get("retry-after"), now=time.time())


def _fields(body: bytes, sent: Mapping[str, Any]) -> str:
    """The field names in a 4xx response that are also names in the payload or its ``answers``.

    Everything else is omitted, unknown names too, since the response may repeat payload values.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, dict) and isinstance(found.get("errors"), dict):
        found = found["errors"]
    if not isinstance(found, dict):
        return ""
    answers = sent.get("answers")
    known = {*sent, *(answers if isinstance(answers, Mapping) else ())}
    names = list(dict.fromkeys(name for one in found if (name := _known_name(one, known))))
    return f" (fields: {', '.join(names[:_MAX_FIELDS])})" if names else ""


def _known_name(name: str, known: Container[str]) -> str:
    """The known part of a path such as ``answers.q1``; empty if its first step is unknown."""
    if name in known:
        return name if _FIELD.match(name) else ""
    steps = list(
        takewhile(lambda step: step in known and _FIELD.match(step), _STEPS.split(name)[:2])
    )
    return ".".join(steps)


def parse_submission(answer: dict[str, Any]) -> SavedSubmission:
    """Parse a submission in a JSON object of the API.

    Raises:
        SinkTransient: the object has another shape.
    """
    try:
        webhooks = answer.get("webhooks") or []
        if not isinstance(webhooks, list):
            raise TypeError
        endpoints = tuple(map(_webhook, webhooks))
        answers = answer.get("answers")
        return SavedSubmission(
            _text(answer["id"]),
            _text(answer["status"]),
            endpoints,
            form_id=_text_or_none(answer.get("formId")),
            submitted_at=_text_or_none(answer.get("submittedAt")),
            answers=answers if isinstance(answers, dict) else None,
        )
    except (KeyError, TypeError, AttributeError):
        raise _wrong_shape() from None


def _webhook(given: object) -> SubmissionWebhook:
    """Parse a webhook of a response. Missing and malformed values are empty, so that only this
    webhook is refused: the submission is saved, and the other webhooks are sent."""
    fields = given if isinstance(given, dict) else {}
    headers = fields.get("headers") or {}

    def text(name: str, default: str = "") -> str:
        value = fields.get(name)
        try:
            return default if value is None or value == "" else _text(value)
        except TypeError:
            return ""

    try:
        checked = {_text(name): _text(value) for name, value in headers.items()}
    except (TypeError, AttributeError):
        checked = {"": ""}  # no header has such a name
    return SubmissionWebhook(
        text("id"), text("url"), text("secret"), text("method", "POST"), checked
    )


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)
