"""The client of the Django API. Every call is idempotent, so it can be retried."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson
from requests.utils import requote_uri

from ...config.expected import Expected
from ...config.sinks import check_api_url
from ...core.errors import ConfigError, SinkPermanent, SinkTransient, SinkUnready
from ...core.process import current_pid
from ...core.request_times import timed
from ...core.trace_context import current_trace
from ..http import ClientCertificate
from ..http.blocking import BlockingClient, RequestFailed
from .responses import SavedSubmission, connection_error, parse_json, parse_submission, refuse

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


class Api:
    """The client of the API at ``url``. Thread-safe: each thread has its own connections.

    Args:
        url: ``https://host``, with or without a path before ``/api``.
        token: returns the token, or None for none; called for each request, since secrets rotate.
        connect_timeout: time-out of connecting, TLS included.
        timeout: time-out of the whole request after connecting.
        certificate: client certificate, if the API asks for one.

    Raises:
        ConfigError: ``url`` is malformed.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str | None],
        connect_timeout: timedelta,
        timeout: timedelta,
        certificate: ClientCertificate | None = None,
    ) -> None:
        self._url = _ascii(url).rstrip("/")
        self._token = token
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._certificate = certificate
        self._local = threading.local()

    def save_submission(self, payload: Mapping[str, Any]) -> SavedSubmission:
        """Save a submission (201), or get the submission that has its id already (200).

        Args:
            payload: the JSON to send; its ``submissionId`` is the idempotency key.

        Raises:
            SinkPermanent: the API refused the submission (400, 404, 409, 410, 413, 422).
            SinkTransient: any other failure. With ``SinkUnavailable``, ``SinkBusy`` and
                ``SinkUnready`` nothing was saved; otherwise that is unknown.
        """
        key = _key(payload.get("submissionId"))
        answer = self._request("POST", "/api/v1/submissions/", payload, {"Idempotency-Key": key})
        return parse_submission(answer)

    def get_submission(self, submission_id: str) -> SavedSubmission | None:
        """Get a submission by its id; None if there is none. Raises as :meth:`save_submission`."""
        return self._submission("GET", _path("submissions", submission_id))

    def update_payment(
        self, submission_id: str, *, status: str, event_id: str, created: int
    ) -> SavedSubmission | None:
        """Report the outcome of a payment. The API ignores an event older than the last.

        Args:
            submission_id: the id of the submission.
            status: the new status of the payment.
            event_id: the id of the payment provider's event.
            created: when the payment provider made the event, unix seconds.

        Returns:
            The updated submission; None if the API does not have it.

        Raises:
            SinkError: as :meth:`save_submission`.
        """
        event = {"status": status, "eventId": event_id, "created": created}
        path = _path("submissions", submission_id) + "payment/"
        return self._submission("PATCH", path, event)

    def save_partial(self, partial_id: str, payload: Mapping[str, Any]) -> bool:
        """Save a revision of a partial.

        Returns:
            False if the API has a newer revision (409).

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

    def _submission(
        self, method: str, path: str, payload: Mapping[str, Any] | None = None
    ) -> SavedSubmission | None:
        try:
            return parse_submission(self._request(method, path, payload))
        except SinkPermanent as error:
            if error.code == 404:
                return None
            raise

    def _request(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object of a response with status 200 or 201."""
        client = self._client()
        headers = self._headers() | dict(headers or {})
        body = None if payload is None else _encode(payload)
        timeouts = (self._connect_timeout.total_seconds(), self._timeout.total_seconds())
        with timed("api"):
            try:
                response = client.request(method, self._url + path, headers, body, timeouts)
            except RequestFailed as error:
                has_certificate = self._certificate is not None
                raise connection_error(error, has_certificate=has_certificate) from None
            refuse(response, payload)
            try:
                return parse_json(response)
            except SinkTransient:
                # The rest of the response must not be read as the next response.
                client.close()
                raise

    def _client(self) -> BlockingClient:
        client: BlockingClient | None = getattr(self._local, "client", None)
        if client is None or self._local.pid != current_pid():
            # A forked child makes its own: the connections are still its parent's.
            client = self._local.client = BlockingClient(self._certificate)
            self._local.pid = current_pid()
        return client

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
        trace = current_trace.get()
        return headers if trace is None else headers | trace.as_options()


def _ascii(url: str) -> str:
    """Check a URL and convert it to ASCII: the host by UTS 46, the path by percent-encoding.

    Raises:
        ConfigError: the URL is malformed.
    """
    try:
        return requote_uri(check_api_url(url))
    except Expected as error:
        raise ConfigError(error.line("API_URL", raw=url, secret=True)) from None
    except UnicodeError:  # an unpaired surrogate
        raise ConfigError("expected API_URL to be valid Unicode, got something else") from None


def _encode(payload: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(dict(payload))
    except TypeError:
        raise SinkPermanent("expected a payload that is JSON, got one that is not") from None


def _path(kind: str, id: object) -> str:
    return f"/api/v1/{kind}/{quote(_key(id), safe='')}/"


def _key(value: object) -> str:
    # "." and ".." would change the path of the URL.
    if not isinstance(value, str) or not _KEY.match(value) or value in (".", ".."):
        raise SinkPermanent(
            "expected a submissionId or partialId of 1 to 255 printable ASCII characters"
        )
    return value
