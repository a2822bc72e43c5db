"""The client of the Google Sheets API (v4): the few calls that writing rows needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlencode, urlsplit

import orjson

from ...core.errors import ConfigError, SinkPermanent
from ...core.process import current_pid
from ...core.request_times import timed
from ..http.blocking import BlockingClient, BlockingResponse, RequestFailed
from .errors import TokenRefused, parse_answer, transport_error

BASE_URL = "https://sheets.googleapis.com"
CONNECT_TIMEOUT = timedelta(seconds=10)
#: Google ends a request after 180 s.
TIMEOUT = timedelta(seconds=190)
#: Maximum number of bytes read of a response: a column of keys may be long.
_MAX_BYTES = 32 * 1024 * 1024

#: Which quota a call uses.
CallKind = Literal["read", "write"]


class Transport(Protocol):
    """Sends HTTP requests. Thread-safe."""

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> BlockingResponse:
        """Send a request; see :meth:`..http.blocking.BlockingClient.request`."""


class HttpTransport:
    """Sends requests by libcurl. Each thread has its own connections. Make one per process."""

    def __init__(self) -> None:
        self._local = threading.local()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> BlockingResponse:
        client: BlockingClient | None = getattr(self._local, "client", None)
        if client is None or self._local.pid != current_pid():
            # A forked child makes its own: the connections are still its parent's.
            client = self._local.client = BlockingClient(max_bytes=_MAX_BYTES)
            self._local.pid = current_pid()
        response = client.request(method, url, headers, body, timeout)
        if not response.is_whole:
            client.close()  # the rest of the response must not be read as the next response
        return response


class SheetsClient:
    """The API with the tokens of one connection. Thread-safe.

    Args:
        token: returns an access token. Its argument is None, or the token that Google has just
            refused, which has to be replaced.
        transport: sends the requests.
        base_url: ``https://host``, with or without a path before ``/v4``.
        before_call: called before each request with the quota that the request uses; may raise
            ``NotNow``.

    Raises:
        ConfigError: ``base_url`` is malformed.
    """

    def __init__(
        self,
        token: Callable[[str | None], str],
        transport: Transport,
        *,
        base_url: str = BASE_URL,
        before_call: Callable[[CallKind], None] = lambda _: None,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
            raise ConfigError("expected the address of Google Sheets as https://host")
        self._token = token
        self._transport = transport
        self._url = base_url.rstrip("/") + "/v4/spreadsheets/"
        self._before_call = before_call
        self._timeout = (connect_timeout.total_seconds(), timeout.total_seconds())

    def get(self, spreadsheet: str, ranges: Sequence[str], fields: str) -> dict[str, Any]:
        """Get the parts of a spreadsheet that ``fields`` selects.

        Raises (each method):
            SinkUnavailable, QuotaExceeded, TokenRefused, SheetRefused: nothing was written.
            BadBatch: the same, for 400.
            SinkTransient: any other failure. Whether anything was written is unknown.
        """
        query = [("fields", fields), *(("ranges", each) for each in ranges)]
        return self._call("read", "GET", spreadsheet, "", query)

    def values(self, spreadsheet: str, range: str, *, by_columns: bool = False) -> list[Any]:
        """Get the values of a range: a list of rows, or of columns. Empty ends are missing."""
        query = [
            ("valueRenderOption", "UNFORMATTED_VALUE"),
            ("majorDimension", "COLUMNS" if by_columns else "ROWS"),
        ]
        path = "/values/" + quote(range, safe="")
        found = self._call("read", "GET", spreadsheet, path, query).get("values")
        return found if isinstance(found, list) else []

    def metadata(self, spreadsheet: str, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Get the entries of developer metadata that have these ids."""
        filters = [{"developerMetadataLookup": {"metadataId": id}} for id in ids]
        body = {"dataFilters": filters}
        found = self._call("read", "POST", spreadsheet, "/developerMetadata:search", (), body)
        entries = found.get("matchedDeveloperMetadata") or []
        return [entry["developerMetadata"] for entry in entries]

    def batch_update(
        self, spreadsheet: str, requests: Sequence[Mapping[str, Any]], range: str, fields: str
    ) -> dict[str, Any]:
        """Execute all requests, or none.

        Returns:
            The parts of the updated spreadsheet that ``fields`` selects, limited to ``range``.
        """
        body = {
            "requests": requests,
            "includeSpreadsheetInResponse": True,
            "responseRanges": [range],
        }
        query = [("fields", f"spreadsheetId,updatedSpreadsheet({fields})")]
        found = self._call("write", "POST", spreadsheet, ":batchUpdate", query, body)
        updated = found.get("updatedSpreadsheet")
        return updated if isinstance(updated, dict) else {}

    def _call(
        self,
        kind: CallKind,
        method: str,
        spreadsheet: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        # A "/" or "?" would change the path of the URL.
        url = self._url + quote(spreadsheet, safe="") + path
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        try:
            data = None if body is None else orjson.dumps(body)
        except TypeError:
            raise SinkPermanent("expected rows that are JSON, got rows that are not") from None
        token = self._token(None)
        try:
            return self._send(kind, method, url, data, token)
        except TokenRefused:
            new = self._token(token)
            if new == token:
                raise
            return self._send(kind, method, url, data, new)

    def _send(
        self, kind: CallKind, method: str, url: str, body: bytes | None, token: str
    ) -> dict[str, Any]:
        self._before_call(kind)
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {token}",
            "User-Agent": "formrelay",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        with timed("sheets"):
            try:
                response = self._transport.request(method, url, headers, body, self._timeout)
            except RequestFailed as error:
                raise transport_error(error) from None
            return parse_answer(response)
