"""The Django API: submissions are saved with an idempotency key, so a repeat is safe."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import requests

from ..core.errors import ConfigError, SinkPermanent, SinkTransient, SinkUnready
from ..core.hosts import InvalidHost, ascii_url
from ..core.process import current_pid
from .api_answers import of_connection, parse, refuse, wrong_shape
from .transport import Session

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_SPACES = re.compile(r"[\x00-\x20\x7f]")
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
        connect_timeout: of making a connection, TLS included.
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
        self._url = _spelled(url).rstrip("/")
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
            SinkTransient: everything else; ``SinkUnavailable`` when nothing was sent, ``SinkBusy``
                and ``SinkUnready`` when nothing was taken, and otherwise nobody knows.
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
        session = self._session()
        headers = self._headers() | dict(headers or {})
        body = None if payload is None else _encode(payload)
        timeouts = (self._connect_timeout.total_seconds(), self._timeout.total_seconds())
        try:
            answer = session.exchange(method, self._url + path, headers, body, timeouts)
        except requests.RequestException as error:
            raise of_connection(error) from None
        refuse(answer, payload)
        try:
            return parse(answer)
        except SinkTransient:
            # Where an answer did not end as it said, what is left of it is not the next one's.
            session.close()
            raise

    def _session(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None or self._local.pid != current_pid():
            # A forked child makes its own: the parent's connections are not ours to speak on.
            session = self._local.session = Session()
            self._local.pid = current_pid()
        return session

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "formrelay",
        }
        token = (self._token() or "").strip()
        if token:
            if not _TOKEN.match(token):
                raise SinkUnready("expected API_TOKEN to be printable ASCII, it is not")
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _spelled(url: str) -> str:
    """An address in ASCII: the host by :mod:`..core.hosts`, the path with percent signs.

    Raises:
        ConfigError: it cannot be.
    """
    request = requests.PreparedRequest()
    try:
        request.prepare_url(ascii_url(url), None)
    except (InvalidHost, requests.exceptions.RequestException):
        raise ConfigError("expected API_URL to be an address, got one of another shape") from None
    found = request.url or ""
    if not found.isascii() or _SPACES.search(found):
        raise ConfigError("expected API_URL to be an address without spaces")
    return found


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


def _submission(answer: dict[str, Any]) -> SavedSubmission:
    try:
        webhooks = answer.get("webhooks") or []
        if not isinstance(webhooks, list):
            raise TypeError
        endpoints = tuple(map(_endpoint, webhooks))
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
        raise wrong_shape() from None


def _endpoint(given: object) -> Endpoint:
    """An endpoint of an answer. A value that is missing or malformed is empty, which its webhook
    is refused for: the submission is saved, and the other endpoints are told."""
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
    return Endpoint(text("id"), text("url"), text("secret"), text("method", "POST"), checked)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)
