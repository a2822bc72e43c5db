"""Sends webhooks, only to allowed addresses.

Each address is checked in libcurl's open-socket callback, when libcurl connects. So DNS rebinding
(a name resolves to another address after the check) is not possible.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from time import monotonic
from typing import Any

import pycurl

from ...core.errors import InvalidJob, SinkError, SinkPermanent, SinkTransient, SinkUnavailable
from .addresses import Network, parse_address, why_blocked
from .curl import MAX_HEADER_BYTES, Callbacks, Handle, milliseconds, new_curl, set_body, set_headers
from .headers import check_header, parse_retry_after
from .resolver import Resolver
from .transfers import Transfers
from .url import check_url

METHODS = ("POST", "PUT")
#: CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl lacks.
_SUPPRESS_CONNECT_HEADERS = 265
_MAX_CONNECT_TIME = timedelta(seconds=10)
#: Statuses after which the same request would get the same response.
_PERMANENT = frozenset({400, 413, 414, 422, 501})
#: HTTP status 410 (Gone), which is always permanent.
_GONE = 410
_DEFAULT_HEADERS = {"content-type": "application/json", "user-agent": "formrelay"}
_TLS_ERRORS = {
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_ISSUER_ERROR,
    pycurl.E_SSL_INVALIDCERTSTATUS,
    pycurl.E_PEER_FAILED_VERIFICATION,
}


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a receiver.

    Attributes:
        headers: headers by lower-case name; values of repeated headers joined by ``, ``.
        body: the first bytes, at most ``max_response_bytes``; as sent, not decompressed.
        duration: duration of the whole request.
    """

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    duration: timedelta


class Egress:
    """Sends webhooks in any asyncio event loop, also in a forked process.

    Args:
        timeout: time-out of a whole request, from its start to the last byte of the response.
        allow_http: whether ``http://`` is allowed.
        allowed_private: networks that are allowed although they are blocked.
        concurrency: expected number of concurrent requests; twice as many connections are kept.
        proxy: URL of a proxy for all requests. The proxy resolves names and must check their
            addresses: with a proxy, only a host that is an IP address is checked here.
        max_response_bytes: maximum number of bytes read of a response body.
        ca_file: file of trusted certificates instead of the system's.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        allow_http: bool,
        allowed_private: Sequence[Network],
        concurrency: int = 10,
        proxy: str | None = None,
        max_response_bytes: int = 64 * 1024,
        ca_file: str | None = None,
    ) -> None:
        self._proxy = proxy
        self._timeout = timeout
        self._allow_http = allow_http
        self._allowed = tuple(allowed_private)
        self._max_bytes = max_response_bytes
        self._ca_file = ca_file
        self._transfers = Transfers(self._make_handle, max_kept=max(16, 2 * concurrency))
        self._resolver = Resolver(timeout=min(timeout, _MAX_CONNECT_TIME))

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return the response, whatever its status.

        A response without the end of its body is returned, if its status and headers are complete.

        Args:
            method: ``POST`` or ``PUT``.
            headers: all headers; first check a caller's headers with :func:`check_headers`.

        Raises:
            InvalidJob: the URL, the method or a header is invalid.
            SinkPermanent: the host resolves to a blocked address, or libcurl cannot parse the URL.
            SinkUnavailable: nothing was sent: name not found, connection refused, TLS failed.
            SinkTransient: no response; the request may have been sent.
        """
        target = check_url(url, allow_http=self._allow_http)
        if method not in METHODS:
            raise InvalidJob("expected the method POST or PUT, got another method")
        all_headers = _with_defaults(headers)
        started_at = monotonic()
        addresses = await self._addresses(target.host)
        # The look-up takes its time from the time-out of the request, but at most half of it.
        timeout = self._timeout.total_seconds()
        timeout -= min(monotonic() - started_at, timeout / 2)

        def prepare(handle: Handle) -> None:
            curl = handle.curl
            curl.setopt(pycurl.URL, target.url)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
            set_body(curl, body)
            set_headers(curl, all_headers)
            curl.setopt(pycurl.TIMEOUT_MS, milliseconds(timeout))
            if addresses:
                curl.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{addresses}"])

        def finish(handle: Handle, code: int) -> Response:
            return _response(handle, code, target.host)

        # All requests through a proxy may share its connections.
        destination = (target.scheme, target.host, target.port) if self._proxy is None else None
        return await self._transfers.send(
            prepare, finish, destination=destination, needs_new=not body
        )

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


def _response(handle: Handle, code: int, host: str) -> Response:
    """The response to a request; raises an error if there is none."""
    received = handle.callbacks
    if not received.is_complete:
        raise _failure(code, handle.curl, received, host)
    duration = timedelta(seconds=handle.curl.getinfo(pycurl.TOTAL_TIME))
    return Response(received.status, received.headers, bytes(received.body), duration)


def raise_for_status(
    status: int,
    headers: Mapping[str, str],
    now: float,
    *,
    permanent: Collection[int] = _PERMANENT,
) -> None:
    """Raise an error for any status but 2xx.

    Args:
        headers: response headers by lower-case name.
        now: unix time in seconds, for a Retry-After that is a date.
        permanent: statuses after which the request is not retried, in addition to 410.

    Raises:
        SinkPermanent: the status is permanent.
        SinkTransient: any other status; ``retry_after`` is the wait that the receiver asks for.
    """
    if 200 <= status < 300:
        return
    if status == _GONE or status in permanent:
        raise SinkPermanent(f"the receiver answered {status}", code=status)
    hint = " (a redirect is never followed)" if 300 <= status < 400 else ""
    raise SinkTransient(
        f"the receiver answered {status}{hint}",
        code=status,
        retry_after=parse_retry_after(headers.get("retry-after"), now=now),
    )


def _failure(code: int, curl: Any, received: Callbacks, host: str) -> SinkError:
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
    if code in _TLS_ERRORS:
        return SinkUnavailable(f"TLS: '{host}' has no trusted certificate, or the handshake failed")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        if curl.getinfo(pycurl.REQUEST_SIZE) > 0:
            return SinkTransient(f"time-out: '{host}' did not answer in time")
        return SinkUnavailable(f"time-out: could not connect to '{host}' in time")
    if code == pycurl.E_COULDNT_CONNECT:
        return SinkUnavailable(f"connect: '{host}' refused the connection or is unreachable")
    if code == pycurl.E_URL_MALFORMAT:
        return SinkPermanent(f"URL: libcurl cannot parse the URL of '{host}'")
    # Without an error code: for libcurl, a connection closed within the headers is no error.
    detail = f" (libcurl error {code})" if code else ""
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
