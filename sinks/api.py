"""The Django API: submissions are saved with an idempotency key, so a repeat is safe."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ..core.errors import (
    ConfigError,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from .deadline import deadline, new_session
from .retry_after import parse_retry_after

_MOST_BYTES = 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_PERMANENT = frozenset({400, 404, 409, 410, 413, 422})
#: It asks for time, and has not taken what was sent.
_BUSY = frozenset({425, 429, 503})
_MOST_FIELDS = 10
_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}\Z")
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a submission goes: a webhook of its form."""

    id: str
    url: str = field(repr=False)
    secret: str = field(repr=False)
    method: str
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SavedSubmission:
    """A submission as the API keeps it.

    Attributes:
        form_id, submitted_at, answers: None where the answer did not have them.
    """

    id: str
    status: str
    webhooks: tuple[Endpoint, ...]
    form_id: str | None = None
    submitted_at: str | None = None
    answers: dict[str, Any] | None = field(default=None, repr=False)


class Api:
    """The API at ``url``. Safe to share between threads; each has its own connections.

    Args:
        url: ``https://host``, with or without a path before ``/api``.
        token: read for each request, since secrets rotate; None sends none.
        connect_timeout: of making a connection, for each of the host's addresses.
        timeout: of a whole request after that, however slowly the server drips.

    Raises:
        ConfigError: ``url`` cannot be right.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str | None],
        connect_timeout: timedelta,
        timeout: timedelta,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError("expected API_URL to be http(s)://host without a query")
        self._url = url.rstrip("/")
        self._token = token
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._local = threading.local()

    def save_submission(self, payload: Mapping[str, Any]) -> SavedSubmission:
        """Save a submission: 201 when it is new, 200 when it is the same again.

        Args:
            payload: sent as it is; its ``submissionId`` is the idempotency key.

        Raises:
            SinkPermanent: the API will never take it (400, 404, 409, 410, 413, 422).
            SinkTransient: everything else; ``SinkUnavailable`` when nothing was sent.
        """
        key = _key(payload.get("submissionId"))
        answer = self._request("POST", "/api/v1/submissions/", payload, {"Idempotency-Key": key})
        return _submission(answer)

    def get_submission(self, submission_id: str) -> SavedSubmission | None:
        """A submission by its id, None where there is none; raises as :meth:`save_submission`."""
        try:
            return _submission(self._request("GET", _path("submissions", submission_id)))
        except SinkPermanent as error:
            if error.code == 404:
                return None
            raise

    def update_payment(
        self, submission_id: str, *, status: str, event_id: str, created: int
    ) -> SavedSubmission | None:
        """Tell what became of a payment; an event older than the last changes nothing.

        Args:
            created: when the payment provider made the event, unix seconds.

        Returns:
            The submission as it is then; None where there is none (yet).

        Raises:
            SinkError: as :meth:`save_submission`.
        """
        event = {"status": status, "eventId": event_id, "created": created}
        path = _path("submissions", submission_id) + "payment/"
        try:
            return _submission(self._request("PATCH", path, event))
        except SinkPermanent as error:
            if error.code == 404:
                return None
            raise

    def save_partial(self, partial_id: str, payload: Mapping[str, Any]) -> bool:
        """Save a revision of a partial; whether it is the newest (409: a newer one is stored).

        Raises:
            SinkError: as :meth:`save_submission`.
        """
        try:
            self._request("PUT", _path("partials", partial_id), payload)
        except SinkPermanent as error:
            if error.code == 409:
                return False
            raise
        return True

    def _request(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object that a 200 or 201 brought."""
        timeouts = (self._connect_timeout.total_seconds(), self._timeout.total_seconds())
        try:
            with deadline(sum(timeouts)):
                response = self._session().request(
                    method,
                    self._url + path,
                    data=None if payload is None else _encode(payload),
                    headers=self._headers() | dict(headers or {}),
                    timeout=timeouts,
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    body, whole = _read(response)
        except requests.exceptions.ConnectTimeout:
            raise SinkUnavailable("expected to connect to the API in time, could not") from None
        except requests.exceptions.SSLError:
            raise SinkUnavailable("expected the API's TLS to be trusted, it is not") from None
        except requests.exceptions.ConnectionError as error:
            raise _connection_failure(error) from None
        except (requests.exceptions.Timeout, ReadTimeoutError, TimeoutError):
            raise SinkTransient("expected the API to answer in time, it did not") from None
        except (requests.exceptions.RequestException, HTTPError, OSError, ValueError) as error:
            raise SinkTransient(
                f"the answer of the API broke off ({type(error).__name__})"
            ) from None
        _classify(response, body)
        return _parse(response, body, whole)

    def _session(self) -> requests.Session:
        # A forked child makes its own: the parent's connections are not ours to speak on.
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.session, self._local.pid = new_session(), os.getpid()
        session: requests.Session = self._local.session
        return session

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            # What is cut at 1 MiB must be what was sent, not what it unpacks to.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "formrelay",
        }
        token = (self._token() or "").strip()
        if token:
            if not _TOKEN.match(token):
                raise SinkUnready("expected API_TOKEN to be printable ASCII, it is not")
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _encode(payload: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(dict(payload))
    except TypeError:
        raise SinkPermanent("expected a payload that is JSON, got one that is not") from None


def _path(kind: str, id: object) -> str:
    return f"/api/v1/{kind}/{quote(_key(id), safe='')}/"


def _key(value: object) -> str:
    # "." and ".." would walk up the path of the address.
    if not isinstance(value, str) or not _KEY.match(value) or value in (".", ".."):
        raise SinkPermanent(
            "expected a submissionId or partialId of 1 to 255 printable ASCII characters"
        )
    return value


def _read(response: requests.Response) -> tuple[bytes, bool]:
    """At most :data:`_MOST_BYTES` of the body, and whether that is all of it."""
    body = bytearray()
    while len(body) <= _MOST_BYTES:
        chunk = response.raw.read(_CHUNK_BYTES, decode_content=False)
        if not chunk:
            return bytes(body), True
        body += chunk
    return bytes(body[:_MOST_BYTES]), False


def _connection_failure(error: requests.exceptions.ConnectionError) -> SinkError:
    """Nothing was sent, or it broke on the way: urllib3 wraps both in the same class."""
    text = type(getattr(error.args[0] if error.args else None, "reason", None)).__name__
    if text in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError"):
        return SinkUnavailable(f"expected to connect to the API, could not ({text})")
    inner = error.args[0] if error.args else None
    if "Timeout" in type(inner).__name__ or isinstance(
        getattr(inner, "reason", None), TimeoutError
    ):
        return SinkTransient("expected the API to answer in time, it did not")
    return SinkTransient("the connection to the API broke before its answer")


def _classify(response: requests.Response, body: bytes) -> None:
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
        raise SinkPermanent(f"the API answered {status}{_complaints(body)}", code=status)
    if 200 <= status < 400:
        hint = " (a redirect is never followed: check API_URL)" if status >= 300 else ""
        raise SinkTransient(f"expected 200 or 201 from the API, got {status}{hint}", code=status)
    kind = SinkBusy if status in _BUSY else SinkTransient
    raise kind(f"the API answered {status}", code=status, retry_after=_retry_after(response))


def _retry_after(response: requests.Response) -> timedelta | None:
    return parse_retry_after(response.headers.get("Retry-After"), now=time.time())


def _complaints(body: bytes) -> str:
    """The names of the fields that a 4xx complains of; their values and texts stay out."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, dict) and isinstance(found.get("errors"), dict):
        found = found["errors"]
    if not isinstance(found, dict):
        return ""
    names = [name for name in found if _FIELD.match(name)][:_MOST_FIELDS]
    return f" (fields: {', '.join(names)})" if names else ""


def _parse(response: requests.Response, body: bytes, whole: bool) -> dict[str, Any]:
    code = response.status_code
    if not whole:
        raise SinkTransient(f"expected an answer of at most {_MOST_BYTES} bytes", code=code)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise SinkTransient("expected JSON from the API, got another content type", code=code)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise SinkTransient("expected JSON from the API, got something else", code=code) from None
    if not isinstance(answer, dict):
        raise _wrong_shape()
    return answer


def _submission(answer: dict[str, Any]) -> SavedSubmission:
    try:
        webhooks = answer.get("webhooks") or []
        endpoints = tuple(
            Endpoint(
                id=_text(one.get("id", "")),
                url=_text(one["url"]),
                secret=_text(one["secret"]),
                method=_text(one.get("method") or "POST"),
                headers={_text(k): _text(v) for k, v in (one.get("headers") or {}).items()},
            )
            for one in webhooks
        )
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


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _wrong_shape() -> SinkTransient:
    return SinkTransient(
        "expected {id, status, webhooks} from the API, got JSON of another shape: "
        "check API_URL and the API's version"
    )
