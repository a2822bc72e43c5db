"""What a response of the API holds, and which error stands for a failed request."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from typing import Any

import orjson
import requests

from ...core.errors import (
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from ..http.adapter import MAX_BYTES, CurlResponse, NotSent
from ..http.headers import known_media_type, parse_retry_after

_PERMANENT = frozenset({400, 404, 409, 410, 413, 422})
#: The API is overloaded and did not take the request.
_BUSY = frozenset({425, 429, 503})
#: The request belongs elsewhere and was not taken. (Not 303: there it was taken.)
_MOVED = frozenset({301, 302, 307, 308})
_MAX_FIELDS = 10
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
#: The parts of ``answers.q1`` and ``answers[q1]``.
_STEPS = re.compile(r"[.\[\]]+")


@dataclass(frozen=True, slots=True)
class SubmissionWebhook:
    """A webhook that the API names for a submission."""

    id: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    method: str
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SavedSubmission:
    """A submission as the API keeps it.

    Attributes:
        form_id, submitted_at, answers: None if the response did not have them.
    """

    id: str
    status: str
    webhooks: tuple[SubmissionWebhook, ...]
    form_id: str | None = None
    submitted_at: str | None = None
    answers: dict[str, Any] | None = field(default=None, repr=False)


def refuse(response: CurlResponse, sent: Mapping[str, Any] | None = None) -> None:
    """Raise for any status but 200 and 201.

    Args:
        sent: the payload, whose field names the error may repeat.

    Raises:
        SinkError: the request was refused or failed.
    """
    status = response.status_code
    if status in (200, 201):
        return
    if status in (401, 403):
        raise SinkUnready(
            f"expected the API to accept API_TOKEN, it answered {status}: check the token",
            code=status,
            retry_after=_retry_after(response),
        )
    if status in _PERMANENT:
        fields = _fields(response.body, sent or {})
        raise SinkPermanent(f"the API answered {status}{fields}", code=status)
    if 200 <= status < 400:
        kind = SinkUnready if status in _MOVED else SinkTransient
        hint = _redirect(response) if status >= 300 else ""
        raise kind(f"expected 200 or 201 from the API, got {status}{hint}", code=status)
    kind = SinkBusy if status in _BUSY else SinkTransient
    raise kind(f"the API answered {status}", code=status, retry_after=_retry_after(response))


def parse_json(response: CurlResponse) -> dict[str, Any]:
    """The JSON object of a response with status 200 or 201.

    Raises:
        SinkTransient: it holds none, so that nobody knows whether anything was saved.
    """
    code = response.status_code
    if not response.is_whole:
        raise SinkTransient(
            f"expected an answer of at most {MAX_BYTES} bytes with {code} from the API, "
            "got a larger one",
            code=code,
        )
    kind = response.kind
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {known_media_type(kind)}: "
            "does API_URL lead to it, or to a page before it?",
            code=code,
        )
    try:
        found = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {len(response.body)} bytes that are none "
            "(cut off, or a page of a proxy's?)",
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


def connection_error(error: requests.RequestException) -> SinkError:
    """The error for a request without a response, or with a part of one."""
    match error:
        case requests.exceptions.SSLError():  # a person has to renew it
            return SinkUnready(
                f"expected the API's TLS certificate to be valid, it is not ({error}): "
                "nothing was sent"
            )
        case requests.exceptions.ConnectTimeout():
            return SinkUnavailable("expected to connect to the API in time, could not")
        case NotSent():
            return SinkUnavailable(f"expected to connect to the API, could not ({error})")
        case requests.exceptions.Timeout():
            return SinkTransient("expected the API to answer in time, it did not")
        case requests.exceptions.ConnectionError():
            return SinkTransient("the connection to the API broke before its answer")
    return SinkTransient(f"the answer of the API broke off ({error})")


def _redirect(response: CurlResponse) -> str:
    """The scheme of a redirect's target; the rest of it may hold anything."""
    scheme, colon, _ = response.headers.get("Location", "").strip().lower().partition(":")
    to = f" to {scheme}" if colon and scheme in ("http", "https") else ""
    return f", a redirect{to}, which is never followed: check API_URL"


def _retry_after(response: CurlResponse) -> timedelta | None:
    return parse_retry_after(response.headers.get("Retry-After"), now=time.time())


def _fields(body: bytes, sent: Mapping[str, Any]) -> str:
    """The fields that a 4xx names, if they are names of what was sent: its own fields, and the
    questions under ``answers``.

    Everything else is left out, the names of unknown fields too: whatever the API writes may
    repeat a value.
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
    """``answers.q1`` as far as its parts are known; empty where the first one is not."""
    if name in known:
        return name if _FIELD.match(name) else ""
    steps = list(
        takewhile(lambda step: step in known and _FIELD.match(step), _STEPS.split(name)[:2])
    )
    return ".".join(steps)


def parse_submission(answer: dict[str, Any]) -> SavedSubmission:
    """The submission in a JSON object of the API.

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
    """A webhook of a response. A value that is missing or malformed is left empty, so that this
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
