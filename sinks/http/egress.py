"""Sends webhooks, only to allowed addresses.

Each address is checked in libcurl's open-socket callback, when it is dialled. So DNS rebinding, a
name that resolves to another address after the check, is not possible.
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
#: CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl does not name.
_SUPPRESS_CONNECT_HEADERS = 265
_LONGEST_CONNECT = timedelta(seconds=10)
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
        timeout: time-out of a whole request, from its start to the last byte read.
        allow_http: whether ``http://`` is allowed.
        allowed_private: networks that may be dialled although they are blocked.
        limit: expected number of concurrent requests; twice as many connections are kept.
        proxy: URL of a proxy for all requests. The proxy resolves names and must check the
            addresses that it dials: here, only a host that is an IP address is checked.
        max_response_bytes: maximum number of bytes read of a response body.
        ca_file: file of trusted certificates instead of the system's.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        allow_http: bool,
        allowed_private: Sequence[Network],
        limit: int = 10,
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
        self._transfers = Transfers(self._make_handle, kept=max(16, 2 * limit))
        self._resolver = Resolver(timeout=min(timeout, _LONGEST_CONNECT))

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return the response, whatever its status.

        The response counts once its status and headers have arrived, even if the body breaks off.

        Args:
            method: ``POST`` or ``PUT``.
            headers: all headers; check those of a caller with :func:`check_headers` first.

        Raises:
            InvalidJob: the URL, the method or a header is invalid.
            SinkPermanent: the host resolves to a blocked address, or libcurl refuses the URL.
            SinkUnavailable: nothing was sent: name not found, connection refused, no TLS.
            SinkTransient: no response; the request may have been sent.
        """
        target = check_url(url, allow_http=self._allow_http)
        if method not in METHODS:
            raise InvalidJob("expected the method POST or PUT, got another")
        complete = _checked(headers)
        began = monotonic()
        addresses = await self._addresses(target.host)
        # The look-up counts against the time-out of the request, up to half of it.
        took = min(monotonic() - began, self._timeout.total_seconds() / 2)

        def prepare(handle: Handle) -> None:
            curl = handle.curl
            curl.setopt(pycurl.URL, target.url)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
            set_body(curl, body)
            set_headers(curl, complete)
            curl.setopt(pycurl.TIMEOUT_MS, milliseconds(self._timeout.total_seconds() - took))
            if addresses:
                curl.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{addresses}"])

        def finish(handle: Handle, code: int) -> Response:
            return _response(handle, code, target.host)

        # Connections to the proxy are not bound to one receiver.
        destination = (target.scheme, target.host, target.port) if self._proxy is None else None
        return await self._transfers.send(
            prepare, finish, destination=destination, needs_new=not body
        )

    async def _addresses(self, host: str) -> str:
        """The addresses of a host as libcurl expects them; empty if no look-up is needed."""
        if self._proxy is not None:
            self._check_literal(host)
            return ""
        if _is_address(host):
            return ""
        found = await self._resolver.resolve(host)
        return ",".join(f"[{one}]" if ":" in one else one for one in found)

    def _check_literal(self, host: str) -> None:
        try:
            address = parse_address(host)
        except ValueError:
            return  # a name
        why = why_blocked(address, allowed=self._allowed)
        if why is not None:
            raise _blocked(host, why)

    def _make_handle(self) -> Handle:
        """Make a handle with the options that all requests share."""
        callbacks = Callbacks(self._allowed, self._max_bytes)
        protocols = pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if self._allow_http else 0)
        connect_timeout = min(self._timeout, _LONGEST_CONNECT)
        options = {
            pycurl.PROTOCOLS: protocols,
            pycurl.PROXY: self._proxy or "",
            pycurl.NOPROXY: "",  # otherwise NO_PROXY of the environment bypasses our proxy
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
    found = handle.callbacks
    if not found.is_complete:
        # For libcurl (code 0), a connection closed within the headers is a complete response.
        raise _failure(code, handle.curl, found, host) if code else _lost(host)
    duration = timedelta(seconds=handle.curl.getinfo(pycurl.TOTAL_TIME))
    return Response(found.status, found.headers, bytes(found.body), duration)


def classify_status(
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
        SinkPermanent: the status is permanent; ``code`` has it.
        SinkTransient: any other status; ``code`` has it, ``retry_after`` the wait.
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


def _failure(code: int, curl: Any, found: Callbacks, host: str) -> SinkError:
    """The error for a failed request, without libcurl's own text, which may quote the URL."""
    if found.is_flooded:
        return SinkTransient(f"'{host}' sent more than {MAX_HEADER_BYTES} bytes of headers")
    if found.blocked and not found.dialled:
        return _blocked(host, found.blocked)
    tunnel = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if tunnel >= 300:
        return SinkUnavailable(f"proxy: it answered {tunnel} instead of connecting to '{host}'")
    if code == pycurl.E_COULDNT_RESOLVE_HOST:
        return SinkUnavailable(f"DNS: '{host}' was not found")
    if code in _TLS_ERRORS:
        return SinkUnavailable(f"TLS: no trusted connection to '{host}' could be made")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        if curl.getinfo(pycurl.REQUEST_SIZE) > 0:
            return SinkTransient(f"time-out: '{host}' did not answer in time")
        return SinkUnavailable(f"time-out: no connection to '{host}' in time")
    if code == pycurl.E_COULDNT_CONNECT:
        return SinkUnavailable(f"refused: no connection to '{host}' could be made")
    if code == pycurl.E_URL_MALFORMAT:
        return SinkPermanent(f"the url of '{host}' cannot be used")
    return _lost(host, code)


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


def _blocked(host: str, why: str) -> SinkPermanent:
    return SinkPermanent(
        f"'{host}' resolves to a blocked address ({why}): "
        "WEBHOOK_ALLOWED_PRIVATE_CIDRS makes exceptions"
    )


def _lost(host: str, code: int = 0) -> SinkTransient:
    return SinkTransient(f"lost: no whole answer came from '{host}' (libcurl {code})")


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Check the headers of a request and add missing defaults.

    Raises:
        InvalidJob: see :func:`check_header`.
    """
    for name, value in headers.items():
        check_header(name, value)
    names = {name.lower() for name in headers}
    defaults = {name: value for name, value in _DEFAULT_HEADERS.items() if name not in names}
    return {**defaults, **headers}
