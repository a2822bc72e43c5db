"""A transport adapter for the package ``requests`` that sends requests with libcurl.

The adapter of ``requests`` is built on urllib3 and http.client. It would take most of a worker's
time for a submission, and has no time-out for a whole request (docs/adr/0008).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from typing import Any

import pycurl
import requests
from requests.adapters import BaseAdapter
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    ReadTimeout,
    SSLError,
)
from requests.structures import CaseInsensitiveDict

from .curl import is_stale, milliseconds, new_curl, set_body, set_headers
from .headers import media_type
from .tls import (
    ClientCertificate,
    certificate_failure,
    handshake_failure,
    needs_http2,
    server_certificate_error,
)

#: Maximum number of bytes read of a response body. libcurl before 8.4 reads chunked bodies whole.
MAX_BYTES = 1024 * 1024
#: Where a person sets the client certificate.
_CERTIFICATE = "API_CLIENT_CERT_FILE"
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class NotSent(ConnectionError):
    """No connection could be made, so nothing was sent."""


class ClientCertificateError(SSLError):
    """The API wants a client certificate, or refuses ours; it has done nothing."""


class CurlResponse(requests.Response):
    """A response of the API.

    Attributes:
        media_type: in lower case; empty without a Content-Type.
        body: the body as sent, at most :data:`MAX_BYTES`.
        is_whole: False if the body was longer than that.
    """

    def __init__(self, status: int, kind: str, head: bytes, body: bytes, *, is_whole: bool) -> None:
        super().__init__()
        del self.headers  # parsed at first use
        self.status_code, self.media_type, self.body, self.is_whole = status, kind, body, is_whole
        self.raw, self._head = BytesIO(body), head

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """Headers of the final response, without interim responses and trailers."""
        heads = [part for part in _BLANK_LINE.split(self._head) if part.startswith(b"HTTP/")]
        headers: dict[str, str] = {}
        for line in heads[-1].decode("latin-1").splitlines()[1:] if heads else ():
            name, _, value = line.partition(":")
            headers.setdefault(name, value.strip())
        return CaseInsensitiveDict(headers)


class CurlAdapter(BaseAdapter):
    """Sends requests with one libcurl handle, which keeps its connection. Not thread-safe.

    Uses no proxies, .netrc, cookies or redirects. libcurl writes responses into buffers without a
    Python callback: a stopping worker interrupts its threads with an exception, which libcurl would
    swallow in a callback.
    """

    def __init__(self, certificate: ClientCertificate | None = None) -> None:
        super().__init__()
        self._certificate = certificate
        self._curl: Any = None

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: tuple[float, float],
    ) -> CurlResponse:
        """Send a request whose URL is known to be valid; see :meth:`send`.

        Makes the PreparedRequest without ``requests.Session``, which would merge settings and check
        the URL: that costs as much as sending the request.
        """
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body
        request.headers = CaseInsensitiveDict(headers)
        return self.send(request, timeout=timeout)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # the response is read at once
        timeout: Any = None,
        verify: Any = True,  # ignored: always verified, with the system's CA file
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> CurlResponse:
        """Send a request and read its response, whatever its status.

        Args:
            timeout: (seconds to connect, TLS included; seconds for everything after that).

        Raises:
            ConnectTimeout, SSLError, NotSent: nothing was sent, or (ClientCertificateError) read.
            ReadTimeout, ConnectionError: sent at least in part; no complete response arrived.
            ChunkedEncodingError: the connection broke within the response.
        """
        curl, head, body = self._handle(), BytesIO(), BytesIO()
        _prepare(curl, request, *timeout)
        if self._certificate is not None:
            self._certificate.use(curl)
        curl.setopt(pycurl.HEADERFUNCTION, head.write)
        curl.setopt(pycurl.WRITEFUNCTION, body.write)
        is_whole = True
        try:
            curl.perform()
        except pycurl.error as error:
            code, text = error.args
            is_whole = False
            if code != pycurl.E_FILESIZE_EXCEEDED:
                raise _failure(code, text, curl, self._certificate is not None) from None
        lines = head.getvalue()
        if _BLANK_LINE.split(lines)[-1].startswith(b"HTTP/"):
            # For libcurl, a connection closed within the headers is no error.
            raise ConnectionError("the connection closed before the end of the response headers")
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        kind = media_type((curl.getinfo_raw(pycurl.CONTENT_TYPE) or b"").decode("latin-1"))
        response = CurlResponse(status, kind, lines, body.getvalue(), is_whole=is_whole)
        response.request, response.url = request, request.url or ""
        return response

    def _handle(self) -> Any:
        if self._curl is not None:
            socket = self._curl.getinfo(pycurl.ACTIVESOCKET)
            if socket >= 0 and is_stale([socket]):
                self.close()
        if self._curl is None:
            self._curl = new_curl({pycurl.MAXFILESIZE: MAX_BYTES})
        return self._curl

    def close(self) -> None:
        """Close the connections; the next request opens new connections."""
        if self._curl is not None:
            self._curl.close()
            self._curl = None


def _prepare(curl: Any, request: requests.PreparedRequest, connect: float, rest: float) -> None:
    """Set the options that differ between requests.

    Args:
        connect: seconds to connect.
        rest: seconds for everything after that.
    """
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, milliseconds(connect))
    curl.setopt(pycurl.TIMEOUT_MS, milliseconds(connect + rest))
    curl.setopt(pycurl.URL, request.url)
    if request.body is None:
        curl.setopt(pycurl.HTTPGET, 1)
    else:
        body = request.body
        set_body(curl, body.encode() if isinstance(body, str) else body)
    curl.setopt(pycurl.CUSTOMREQUEST, request.method)
    set_headers(curl, request.headers)


def _failure(code: int, text: str, curl: Any, has_certificate: bool) -> requests.RequestException:
    """The error for a failed request, without libcurl's own text, which may quote the URL."""
    why = certificate_failure(code, text, _CERTIFICATE, has_certificate=has_certificate)
    if why is not None:
        return ClientCertificateError(why)
    why = handshake_failure(code, text, _CERTIFICATE, has_certificate=has_certificate)
    if why is not None:
        return NotSent(f"TLS handshake failed: {why}")
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        return SSLError(server_certificate_error(text) or "not trusted")
    if needs_http2(code, text):
        return NotSent("it speaks only HTTP/2: allow HTTP/1.1")
    is_late = code == pycurl.E_OPERATION_TIMEDOUT
    if curl.getinfo(pycurl.REQUEST_SIZE) == 0:
        return ConnectTimeout() if is_late else NotSent(_REASONS.get(code, f"libcurl error {code}"))
    if is_late:
        return ReadTimeout()
    if curl.getinfo(pycurl.RESPONSE_CODE):
        return ChunkedEncodingError(f"libcurl error {code}")
    return ConnectionError(f"libcurl error {code}")


_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "host name not found",
    pycurl.E_COULDNT_CONNECT: "connection refused or host unreachable",
    pycurl.E_SSL_CONNECT_ERROR: "TLS handshake failed",
}
