"""Safe egress for webhooks: only to public addresses, checked as they are dialled.

The check sits in libcurl's open-socket callback, so that the checked address
is the dialled one and a name that resolves differently the second time (DNS
rebinding) gains nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from time import monotonic
from typing import Any

import pycurl

from ..core.errors import InvalidJob, SinkError, SinkPermanent, SinkTransient, SinkUnavailable
from .addresses import Network, parse_address, why_blocked
from .authorities import system_ca_file
from .exchange import MOST_HEADER_BYTES, Exchange
from .kept import set_body
from .resolver import LookUp, Resolver
from .retry_after import parse_retry_after
from .transfers import Handle, Transfer, Transfers
from .webhook_request import METHODS, check_header, check_headers, check_url

__all__ = ["GONE", "Egress", "Response", "check_headers", "check_url", "classify_status"]

#: libcurl's number of the option, for which pycurl has no name.
_SUPPRESS_CONNECT_HEADERS = 265
_LONGEST_CONNECT = timedelta(seconds=10)
#: The same request will get the same answer.
PERMANENT = frozenset({400, 413, 414, 422, 501})
#: The endpoint is gone for good, and wants no more.
GONE = 410
_TLS_ERRORS = frozenset(
    code
    for name in (
        "E_SSL_CONNECT_ERROR",
        "E_SSL_CERTPROBLEM",
        "E_SSL_CIPHER",
        "E_SSL_CACERT",
        "E_SSL_ISSUER_ERROR",
        "E_SSL_INVALIDCERTSTATUS",
        "E_PEER_FAILED_VERIFICATION",
    )
    if (code := getattr(pycurl, name, None)) is not None
)


@dataclass(frozen=True, slots=True)
class Response:
    """What a receiver answered.

    Attributes:
        headers: names in lower case; a repeated one joined by ``, ``.
        body: the first bytes, at most ``max_response_bytes``; as sent, not decompressed.
        duration: of the whole request.
    """

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    duration: timedelta


class Egress:
    """Sends webhooks. Safe to share between threads and over a fork.

    Args:
        timeout: of a whole request, from its start to the last byte read.
        allow_http: whether ``http://`` may be used.
        allowed_private: networks that may be dialled although they are not public.
        limit: requests under way at a time (see :class:`.transfers.Transfers`).
        proxy: through which all requests go. It dials, and what it dials is for it to check: of
            addresses only those that are written as such in a url are checked here.
        max_response_bytes: how much of an answer's body is read.
        ca_file: certificates to trust instead of the system's.
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
        self._ca_file = ca_file or system_ca_file()
        self._transfers = Transfers(self._make_handle, limit=limit)
        self._resolver = Resolver(timeout=min(timeout, _LONGEST_CONNECT))

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request; any status is an answer (see :func:`classify_status`).

        A status that came in whole counts, whatever becomes of the body after it.

        Args:
            method: ``POST`` or ``PUT``.
            headers: all that are to be sent; those of a caller go through
                :func:`check_headers` first.

        Raises:
            InvalidJob: the url, the method or a header cannot be right.
            SinkPermanent: the host resolves to a blocked address.
            SinkUnavailable: nothing was sent: name not found, refused, no TLS.
            SinkTransient: it was sent, perhaps, and no answer came.
        """
        target = check_url(url, allow_http=self._allow_http)
        if method not in METHODS:
            raise InvalidJob("expected the method POST or PUT, got another")
        lines = _header_lines(headers)
        began = monotonic()
        addresses = await self._addresses(target.host)
        # Of the time for the whole request, in which a look-up is no more than a half.
        took = min(monotonic() - began, self._timeout.total_seconds() / 2)

        def prepare(handle: Handle) -> None:
            curl = handle.curl
            curl.setopt(pycurl.URL, target.url)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
            set_body(curl, body)
            curl.setopt(pycurl.HTTPHEADER, lines)
            curl.setopt(pycurl.TIMEOUT_MS, _millis(self._timeout) - int(took * 1000))
            if addresses:
                curl.setopt(pycurl.RESOLVE, [f"+{target.host}:{target.port}:{addresses}"])

        def finish(handle: Handle, code: int) -> Response:
            return _response(handle, code, target.host)

        # A proxy's connections are not a receiver's own.
        destination = (target.scheme, target.host, target.port) if self._proxy is None else None
        return await Transfer(
            self._transfers, prepare, finish, destination=destination, needs_new=not body
        )

    async def _addresses(self, host: str) -> str:
        """The addresses of a host, as libcurl takes them; empty if there is nothing to look up."""
        if self._proxy is not None:
            self._check_literal(host)
            return ""
        if _is_address(host):
            return ""
        found = self._resolver.known(host) or await LookUp(self._resolver, host)
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
        """A handle with all that does not change between requests."""
        exchange = Exchange(self._allowed, self._max_bytes)
        protocols = pycurl.PROTO_HTTPS | (pycurl.PROTO_HTTP if self._allow_http else 0)
        connect_timeout = min(self._timeout, _LONGEST_CONNECT)
        options = {
            pycurl.PROTOCOLS: protocols,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.FOLLOWLOCATION: 0,
            pycurl.PROXY: self._proxy or "",  # empty, since unset would mean the environment's
            pycurl.NOPROXY: "",  # likewise: with a proxy of ours, what it names would go past it
            _SUPPRESS_CONNECT_HEADERS: 1,  # a proxy's 200 is no receiver's
            pycurl.HEADEROPT: pycurl.HEADER_SEPARATE,  # the signature is none of its business
            pycurl.NOSIGNAL: 1,
            pycurl.TIMEOUT_MS: _millis(self._timeout),
            pycurl.CONNECTTIMEOUT_MS: _millis(connect_timeout),
            pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
            pycurl.SSL_VERIFYPEER: 1,
            pycurl.SSL_VERIFYHOST: 2,
            pycurl.HEADERFUNCTION: exchange.on_header,
            pycurl.WRITEFUNCTION: exchange.on_body,
        }
        if self._proxy is None:
            options[pycurl.OPENSOCKETFUNCTION] = exchange.open_socket
        if self._ca_file:
            options[pycurl.CAINFO] = self._ca_file
        curl = pycurl.Curl()
        for option, value in options.items():
            curl.setopt(option, value)
        return Handle(curl, exchange)


def _response(handle: Handle, code: int, host: str) -> Response:
    """What came of a request: an answer, or the error that stands for none."""
    exchange = handle.exchange
    if not exchange.is_complete:
        # Closed within its headers is none to libcurl, and no answer to us.
        raise _failure(code, handle.curl, exchange, host) if code else _lost(host)
    duration = timedelta(seconds=handle.curl.getinfo(pycurl.TOTAL_TIME))
    return Response(exchange.status, exchange.headers, bytes(exchange.body), duration)


def classify_status(
    status: int,
    headers: Mapping[str, str],
    now: float,
    *,
    permanent: Collection[int] = PERMANENT,
) -> None:
    """Return for a delivery that succeeded (2xx), raise for any other answer.

    Args:
        headers: names in lower case.
        now: unix time in seconds, for a Retry-After that is a date.
        permanent: the statuses after which the same request is not tried again; 410 is one too.

    Raises:
        SinkPermanent: one of those (``code`` tells which).
        SinkTransient: everything else, with the Retry-After that was asked for.
    """
    if 200 <= status < 300:
        return
    if status == GONE or status in permanent:
        raise SinkPermanent(f"the receiver answered {status}", code=status)
    hint = " (a redirect is never followed)" if 300 <= status < 400 else ""
    raise SinkTransient(
        f"the receiver answered {status}{hint}",
        code=status,
        retry_after=parse_retry_after(headers.get("retry-after"), now=now),
    )


def _failure(code: int, curl: Any, exchange: Exchange, host: str) -> SinkError:
    """What a failed request means. libcurl's own text may quote the url and is left out."""
    if exchange.is_flooded:
        return SinkTransient(f"'{host}' sent more than {MOST_HEADER_BYTES} bytes of headers")
    if exchange.blocked and not exchange.dialled:
        return _blocked(host, exchange.blocked)
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


def _header_lines(headers: Mapping[str, str]) -> list[bytes]:
    lines = ["Expect:", "Accept-Encoding:"]  # a name alone: libcurl leaves the header out
    names = {name.lower() for name in headers}
    if "content-type" not in names:
        lines.append("content-type: application/json")
    if "user-agent" not in names:
        lines.append("user-agent: formrelay")
    for name, value in headers.items():
        check_header(name, value)
        # "name:" would leave it out; a semicolon is how libcurl writes an empty value.
        lines.append(f"{name}: {value}" if value and not value.isspace() else f"{name};")
    return [line.encode("latin-1") for line in lines]


def _millis(duration: timedelta) -> int:
    return max(1, int(duration.total_seconds() * 1000))
