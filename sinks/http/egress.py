"""Sends webhooks and fetches files, only to and from allowed addresses.

Each address is checked in libcurl's open-socket callback, when libcurl connects. So DNS rebinding
(a name resolves to another address after the check) is not possible.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from time import monotonic
from typing import Any

import pycurl

from ...core.errors import InvalidJob, SinkError, SinkPermanent, SinkTransient, SinkUnavailable
from .addresses import Network, parse_address, why_blocked
from .curl import (
    MAX_HEADER_BYTES,
    Callbacks,
    Handle,
    milliseconds,
    new_curl,
    set_body,
    set_headers,
    set_http2,
)
from .headers import check_header, parse_retry_after
from .resolver import Resolver
from .tls import (
    TLS_ERRORS,
    ClientCertificate,
    certificate_failure,
    certificate_hint,
    handshake_failure,
    lost_connection_hint,
    needs_http2,
    server_certificate_error,
)
from .transfers import Transfers
from .url import CheckedUrl, check_url

METHODS = ("POST", "PUT", "GET")
#: CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl lacks.
_SUPPRESS_CONNECT_HEADERS = 265
_MAX_CONNECT_TIME = timedelta(seconds=10)
#: Maximum number of bytes read of a response body.
MAX_RESPONSE_BYTES = 64 * 1024
#: Statuses after which the same request would get the same response.
_PERMANENT = frozenset({400, 413, 414, 422, 501})
#: HTTP status 410 (Gone), which is always permanent.
_GONE = 410
_DEFAULT_HEADERS = {"content-type": "application/json", "user-agent": "formrelay"}
#: The variable of the client certificate, for error texts.
_CERTIFICATE = "WEBHOOK_CLIENT_CERT_FILE"
_HAS_HTTP2 = bool(pycurl.version_info()[4] & pycurl.VERSION_HTTP2)
#: Maximum number of receivers remembered that speak only HTTP/2.
_MAX_HTTP2 = 1024


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a receiver.

    Attributes:
        headers: headers by lower-case name; values of repeated headers joined by ``, ``.
        body: the first bytes, at most ``max_bytes``; as sent, not decompressed.
        duration: duration of the whole request.
        is_whole: whether ``body`` is the whole body.
    """

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    duration: timedelta
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request.

    Attributes:
        addresses: of the host, as libcurl expects them; empty if no look-up is needed.
        ends_at: when its time-out ends, monotonic seconds.
    """

    method: str
    target: CheckedUrl
    headers: Mapping[str, str]
    body: bytes
    addresses: str
    ends_at: float

    def prepare(self, curl: Any) -> None:
        """Set the options of the request on an easy handle."""
        curl.setopt(pycurl.URL, self.target.url)
        curl.setopt(pycurl.CUSTOMREQUEST, self.method)
        if self.method == "GET":
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            set_body(curl, self.body)
        set_headers(curl, self.headers)
        curl.setopt(pycurl.TIMEOUT_MS, milliseconds(self.ends_at - monotonic()))
        if self.addresses:
            host, port = self.target.host, self.target.port
            curl.setopt(pycurl.RESOLVE, [f"+{host}:{port}:{self.addresses}"])


class _NeedsHttp2(Exception):
    """The receiver has refused the connection, because it speaks only HTTP/2. Nothing was sent."""


class Egress:
    """Sends webhooks in any asyncio event loop, also in a forked process.

    Args:
        timeout: time-out of a whole request, from its start to the last byte of the response.
        allow_http: whether ``http://`` is allowed.
        allowed_private: networks that are allowed although they are blocked.
        concurrency: expected number of concurrent requests; twice as many connections are kept.
        proxy: URL of a proxy for all requests. The proxy resolves names and must check their
            addresses: with a proxy, only a host that is an IP address is checked here.
        ca_file: file of trusted certificates instead of the system's.
        certificate: client certificate for receivers that ask for one; None for none.
        max_bytes: maximum number of bytes read of a response body.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        allow_http: bool,
        allowed_private: Sequence[Network],
        concurrency: int = 10,
        proxy: str | None = None,
        ca_file: str | None = None,
        certificate: ClientCertificate | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._max_bytes = max_bytes
        self._certificate = certificate
        #: Host and port of receivers that speak only HTTP/2.
        self._http2: set[tuple[str, int]] = set()
        self._proxy = proxy
        self._timeout = timeout
        self._allow_http = allow_http
        self._allowed = tuple(allowed_private)
        self._ca_file = ca_file
        self._transfers = Transfers(self._make_handle, max_kept=max(16, 2 * concurrency))
        self._resolver = Resolver(timeout=min(timeout, _MAX_CONNECT_TIME))

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return the response, whatever its status.

        A response without the end of its body is returned, if its status and headers are complete.

        Args:
            method: ``POST``, ``PUT`` or ``GET``.
            headers: all headers; first check a caller's headers with :func:`check_headers`.

        Raises:
            InvalidJob: the URL, the method or a header is invalid.
            SinkPermanent: the host resolves to a blocked address, or libcurl cannot parse the URL.
            SinkUnavailable: nothing was sent: name not found, connection refused, TLS failed.
            SinkTransient: no response; the request may have been sent.
        """
        target = check_url(url, allow_http=self._allow_http)
        if method not in METHODS:
            raise InvalidJob("expected the method POST, PUT or GET, got another method")
        all_headers = _with_defaults(headers)
        started_at = monotonic()
        addresses = await self._addresses(target.host)
        # The look-up takes its time from the time-out of the request, but at most half of it.
        timeout = self._timeout.total_seconds()
        timeout -= min(monotonic() - started_at, timeout / 2)
        request = _Request(method, target, all_headers, body, addresses, monotonic() + timeout)
        receiver = (target.host, target.port)
        try:
            return await self._send(request, is_http2=receiver in self._http2)
        except _NeedsHttp2:
            if len(self._http2) >= _MAX_HTTP2:
                self._http2.clear()
            self._http2.add(receiver)
            return await self._send(request, is_http2=True)

    def _send(self, request: _Request, *, is_http2: bool) -> Coroutine[Any, Any, Response]:
        """Send a request.

        Raises:
            _NeedsHttp2: nothing was sent; send it with ``is_http2``.
        """
        target = request.target

        def prepare(handle: Handle) -> None:
            request.prepare(handle.curl)
            set_http2(handle.curl, is_on=is_http2)
            if self._certificate is not None:
                self._certificate.use(handle.curl)

        def finish(handle: Handle, code: int) -> Response:
            if _HAS_HTTP2 and not is_http2 and needs_http2(code, handle.curl.errstr()):
                raise _NeedsHttp2
            return _response(handle, code, target.host, self._certificate is not None)

        destination: Hashable = (target.scheme, target.host, target.port)
        if self._proxy is not None and target.scheme == "http":
            destination = None  # plain requests through a proxy share its connections
        needs_new = is_http2 or not request.body
        return self._transfers.send(prepare, finish, destination=destination, needs_new=needs_new)

    async def _addresses(self, host: str) -> str:
        """The addresses of a host as libcurl expects them; empty if no look-up is needed."""
        if self._proxy is not None:
            self._check_ip_address(host)
            return ""
        if _is_address(host):
            return ""
        found = await self._resolver.resolve(host)
        return ",".join(f"[{address}]" if ":" in address else address for address in found)

    def _check_ip_address(self, host: str) -> None:
        """Raise SinkPermanent if ``host`` is a blocked IP address, not a name."""
        if not _is_address(host):
            return
        kind = why_blocked(parse_address(host), allowed=self._allowed)
        if kind is not None:
            raise _blocked(host, kind)

    def _make_handle(self) -> Handle:
        """Make a handle with the options that all requests share."""
        callbacks = Callbacks(self._allowed, self._max_bytes)
        protocols = pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if self._allow_http else 0)
        connect_timeout = min(self._timeout, _MAX_CONNECT_TIME)
        options = {
            pycurl.PROTOCOLS: protocols,
            pycurl.PROXY: self._proxy or "",
            pycurl.NOPROXY: "",  # otherwise NO_PROXY of the environment bypasses the proxy
            _SUPPRESS_CONNECT_HEADERS: 1,  # hides the proxy's response to CONNECT
            pycurl.HEADEROPT: pycurl.HEADER_SEPARATE,  # the proxy must not see the signature
            pycurl.CONNECTTIMEOUT_MS: milliseconds(connect_timeout.total_seconds()),
            pycurl.HEADERFUNCTION: callbacks.on_header,
            pycurl.WRITEFUNCTION: callbacks.on_body,
        }
        if self._proxy is None:
            options[pycurl.OPENSOCKETFUNCTION] = callbacks.open_socket
        return Handle(new_curl(options, ca_file=self._ca_file), callbacks)


def _response(handle: Handle, code: int, host: str, has_certificate: bool) -> Response:
    """The response to a request; raises an error if there is none."""
    received = handle.callbacks
    if not received.is_complete:
        tls = _tls_failure(code, handle.curl.errstr(), host, has_certificate)
        if tls is not None:
            raise tls
        hint = ""
        if received.sockets and not received.status and handle.curl.getinfo(pycurl.APPCONNECT_TIME):
            hint = lost_connection_hint(code, _CERTIFICATE, has_certificate=has_certificate)
        raise _failure(code, handle.curl, received, host, hint)
    duration = timedelta(seconds=handle.curl.getinfo(pycurl.TOTAL_TIME))
    body, is_whole = bytes(received.body), code == 0
    return Response(received.status, received.headers, body, duration, is_whole)


def raise_for_status(
    status: int,
    headers: Mapping[str, str],
    now: float,
    *,
    permanent: Collection[int] = _PERMANENT,
    body: bytes = b"",
) -> None:
    """Raise an error for any status but 2xx.

    Args:
        headers: response headers by lower-case name.
        now: unix time in seconds, for a Retry-After that is a date.
        permanent: statuses after which the request is not retried, in addition to 410.
        body: the response's body, for a hint about client certificates.

    Raises:
        SinkPermanent: the status is permanent.
        SinkTransient: any other status; ``retry_after`` is the wait that the receiver asks for.
    """
    if 200 <= status < 300:
        return
    hint = _hint(status, body)
    if status == _GONE or status in permanent:
        raise SinkPermanent(f"the receiver answered {status}{hint}", code=status)
    raise SinkTransient(
        f"the receiver answered {status}{hint}",
        code=status,
        retry_after=parse_retry_after(headers.get("retry-after"), now=now),
    )


def _hint(status: int, body: bytes) -> str:
    if 300 <= status < 400:
        return " (a redirect is never followed)"
    if status in (426, 505):
        return " (it wants another version of HTTP)"
    wants = certificate_hint(status, body, _CERTIFICATE)
    return f" ({wants})" if wants else ""


def _tls_failure(code: int, text: str, host: str, has_certificate: bool) -> SinkError | None:
    """The error for a failure of TLS; None if the failure has another cause."""
    why = certificate_failure(code, text, _CERTIFICATE, has_certificate=has_certificate)
    why = why or handshake_failure(code, text, _CERTIFICATE, has_certificate=has_certificate)
    if why is not None:
        return SinkUnavailable(f"TLS: no connection to '{host}': {why}")
    if needs_http2(code, text):
        return SinkUnavailable(f"TLS: '{host}' speaks only HTTP/2, which this libcurl does not")
    if code not in TLS_ERRORS:
        return None
    reason = server_certificate_error(text)
    detail = f" ({reason})" if reason else ", or the handshake failed"
    return SinkUnavailable(f"TLS: '{host}' has no trusted certificate{detail}")


def _failure(code: int, curl: Any, received: Callbacks, host: str, hint: str) -> SinkError:
    """The error for a failed request, without libcurl's own text, which may quote the URL."""
    if received.has_too_many_headers:
        return SinkTransient(f"'{host}' sent more than {MAX_HEADER_BYTES} bytes of headers")
    if received.blocked and not received.sockets:
        return _blocked(host, received.blocked)
    status = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if status >= 300:
        return SinkUnavailable(f"proxy: status {status} instead of a connection to '{host}'")
    if code == pycurl.E_COULDNT_RESOLVE_HOST:
        return SinkUnavailable(f"DNS: '{host}' was not found")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        if curl.getinfo(pycurl.REQUEST_SIZE) > 0:
            return SinkTransient(f"time-out: '{host}' did not answer in time")
        return SinkUnavailable(f"time-out: could not connect to '{host}' in time")
    if code == pycurl.E_COULDNT_CONNECT:
        return SinkUnavailable(f"connect: '{host}' refused the connection or is unreachable")
    if code == pycurl.E_UNSUPPORTED_PROTOCOL:  # libcurl reads it as HTTP/0.9
        return SinkTransient(
            f"the response of '{host}' is not HTTP/1.1: it may speak only HTTP/2 or another "
            "protocol"
        )
    if code == pycurl.E_URL_MALFORMAT:
        return SinkPermanent(f"URL: libcurl cannot parse the URL of '{host}'")
    # Without an error code: for libcurl, a connection closed within the headers is no error.
    detail = f" (libcurl error {code}{hint})" if code else ""
    return SinkTransient(f"connection lost: no complete response from '{host}'{detail}")


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


def _blocked(host: str, kind: str) -> SinkPermanent:
    return SinkPermanent(
        f"'{host}' resolves to a blocked address ({kind}): "
        "to allow it, add its network to WEBHOOK_ALLOWED_PRIVATE_CIDRS"
    )


def _with_defaults(headers: Mapping[str, str]) -> dict[str, str]:
    """Check the headers of a request and add missing defaults.

    Raises:
        InvalidJob: see :func:`check_header`.
    """
    for name, value in headers.items():
        check_header(name, value)
    names = {name.lower() for name in headers}
    defaults = {name: value for name, value in _DEFAULT_HEADERS.items() if name not in names}
    return {**defaults, **headers}
