"""Sends requests to a stand-in without HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import pycurl

from formrelay.sinks.http.blocking import BlockingResponse, RequestFailed
from tests.support.google.api import Google, NoAnswer


class DirectTransport:
    """A transport to a stand-in in this process.

    Attributes:
        before_write: called before each ``batchUpdate`` is delivered.
    """

    def __init__(self, google: Google) -> None:
        self._google = google
        self.before_write: Callable[[], None] = lambda: None

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> BlockingResponse:
        parts = urlsplit(url)
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if parts.path.endswith(":batchUpdate"):
            self.before_write()
        try:
            status, found = self._google.handle(
                method, f"{parts.path}?{parts.query}", token, body or b""
            )
        except NoAnswer:
            raise RequestFailed(pycurl.E_GOT_NOTHING, "", was_sent=True, has_status=False) from None
        head = f"HTTP/1.1 {status} X\r\n\r\n".encode()
        data = json.dumps(found).encode()
        return BlockingResponse(status, "application/json", data, True, head)
