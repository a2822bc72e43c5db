"""A blocking HTTP client over libcurl, for the API and for Google Sheets.

The package ``requests`` (urllib3 and http.client) would take most of a worker's time for a
submission, and has no time-out for a whole request (docs/adr/0008).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pycurl

from .curl import is_stale, milliseconds, new_curl, set_body, set_headers
from .headers import media_type
from .tls import ClientCertificate

#: Default maximum number of bytes read of a response body. libcurl before 8.4 reads chunked bodies
#: whole.
MAX_BYTES = 1024 * 1024
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class RequestFailed(Exception):
    """No complete response has arrived.

    Attributes:
        code: libcurl's error code; 0 if the connection closed within the response's headers.
        text: libcurl's own text, which may quote the URL.
        was_sent: whether the request may have been sent, at least in part.
        has_status: whether the status of the response has arrived.
    """

    def __init__(self, code: int, text: str, *, was_sent: bool, has_status: bool) -> None:
        super().__init__(f"libcurl error {code}")
        self.code, self.text = code, text
        self.was_sent, self.has_status = was_sent, has_status


@dataclass(frozen=True, slots=True)
class BlockingResponse:
    """A response of the API.

    Attributes:
        media_type: in lower case; empty without a Content-Type.
        body: the body as sent, at most the client's ``max_bytes``.
        is_whole: False if the body was longer than that.
        head: all header lines, with those of interim responses and trailers.
    """

    status: int
    media_type: str
    body: bytes = field(repr=False)
    is_whole: bool
    head: bytes = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the final response by lower-case name, parsed at each use."""
        heads = [part for part in _BLANK_LINE.split(self.head) if part.startswith(b"HTTP/")]
        headers: dict[str, str] = {}
        for line in heads[-1].decode("latin-1").splitlines()[1:] if heads else ():
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), value.strip())
        return headers


class BlockingClient:
    """Sends requests with one libcurl handle, which keeps its connection. Not thread-safe.

    Args:
        max_bytes: maximum number of bytes read of a response body.

    Uses no proxies, .netrc, cookies or redirects. libcurl writes responses into buffers without a
    Python callback: a stopping worker interrupts its threads with an exception, which libcurl would
    swallow in a callback.
    """

    def __init__(
        self, certificate: ClientCertificate | None = None, *, max_bytes: int = MAX_BYTES
    ) -> None:
        self._certificate = certificate
        self._max_bytes = max_bytes
        self._curl: Any = None

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> BlockingResponse:
        """Send a request and read its response, whatever its status.

        Args:
            url: known to be valid.
            timeout: (seconds to connect, TLS included; seconds for everything after that).

        Raises:
            RequestFailed
        """
        curl, head, content = self._handle(), BytesIO(), BytesIO()
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, milliseconds(timeout[0]))
        curl.setopt(pycurl.TIMEOUT_MS, milliseconds(sum(timeout)))
        curl.setopt(pycurl.URL, url)
        if body is None:
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            set_body(curl, body)
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        set_headers(curl, headers)
        if self._certificate is not None:
            self._certificate.use(curl)
        curl.setopt(pycurl.HEADERFUNCTION, head.write)
        curl.setopt(pycurl.WRITEFUNCTION, content.write)
        is_whole = True
        try:
            curl.perform()
        except pycurl.error as error:
            code, text = error.args
            is_whole = False
            if code != pycurl.E_FILESIZE_EXCEEDED:
                was_sent = curl.getinfo(pycurl.REQUEST_SIZE) > 0
                has_status = bool(curl.getinfo(pycurl.RESPONSE_CODE))
                raise RequestFailed(code, text, was_sent=was_sent, has_status=has_status) from None
        lines = head.getvalue()
        if _BLANK_LINE.split(lines)[-1].startswith(b"HTTP/"):
            # For libcurl, a connection closed within the headers is no error.
            raise RequestFailed(0, "", was_sent=True, has_status=False)
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        kind = media_type((curl.getinfo_raw(pycurl.CONTENT_TYPE) or b"").decode("latin-1"))
        return BlockingResponse(status, kind, content.getvalue(), is_whole, lines)

    def _handle(self) -> Any:
        if self._curl is not None:
            socket = self._curl.getinfo(pycurl.ACTIVESOCKET)
            if socket >= 0 and is_stale(socket):
                self.close()
        if self._curl is None:
            self._curl = new_curl({pycurl.MAXFILESIZE: self._max_bytes})
        return self._curl

    def close(self) -> None:
        """Close the connections; the next request opens new connections."""
        if self._curl is not None:
            self._curl.close()
            self._curl = None
