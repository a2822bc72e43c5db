"""What a caller may ask of the egress: the address and the custom headers, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from socket import inet_aton, inet_ntoa
from urllib.parse import quote, urlsplit

from ..core.errors import InvalidJob
from ..core.hosts import InvalidHost, ascii_host

METHODS = ("POST", "PUT")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2
# Name and value in one go, apart by what neither may hold.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\x00[\t\x20-\x7e\x80-\xff]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# By the URL standard a host whose last label is a number is an IPv4 address, or nothing.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_MOST_URL_CHARACTERS = 8_000
_MOST_HEADERS = 64
_MOST_HEADER_BYTES = 16 * 1024

#: Hop-by-hop headers and those that the request itself decides (RFC 9110, section 7.6.1).
RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class Target:
    """An address that was checked. ``url`` may hold secrets in its query; ``host`` is safe.

    Attributes:
        host: in ASCII and lower case, an IPv4 address in decimal; what is looked up, dialled,
            named in TLS and in the Host header, and by which connections and endpoints are told
            apart.
    """

    url: str
    host: str
    scheme: str
    port: int


@lru_cache(maxsize=1024)  # checked when sent, when run and when dialled; and endpoints recur
def check_url(url: str, *, allow_http: bool = False) -> Target:
    """The address of a webhook, put together again from its parts.

    Putting it together again leaves nothing over which two parsers could
    disagree (backslashes, userinfo, control characters); what its host
    resolves to is checked when it is dialled.

    Raises:
        InvalidJob: it cannot be right. The message never quotes it.
    """
    if len(url) > _MOST_URL_CHARACTERS:
        raise InvalidJob(f"expected a url of at most {_MOST_URL_CHARACTERS} characters")
    if _CONTROL.search(url) or "\\" in url or url != url.strip():
        raise InvalidJob("expected a url without control characters, spaces around or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidJob("expected a url with a valid host and port") from None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise InvalidJob("expected an https url, got another scheme")
    if scheme == "http" and not allow_http:
        raise InvalidJob("expected an https url, got http (WEBHOOK_ALLOW_HTTP=1 allows it)")
    if "@" in parts.netloc:
        raise InvalidJob("expected a url without user and password in it")
    if port == 0:
        raise InvalidJob("expected a url with a port from 1 to 65535")
    host = _spelled(host)
    netloc = f"[{host}]" if ":" in host else host
    if port:
        netloc = f"{netloc}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._[]')}" if parts.query else ""
    at = port or (443 if scheme == "https" else 80)
    return Target(f"{scheme}://{netloc}{path}{query}", host, scheme, at)


def check_headers(custom: Mapping[str, str]) -> dict[str, str]:
    """A caller's own headers, names in lower case.

    Refused: names that are no tokens, values with CR, LF, NUL or other control
    characters, hop-by-hop headers, ``host``, ``content-length`` and the like,
    and ``webhook-*``, which only the signer writes.

    Raises:
        InvalidJob: a header is refused. The message never quotes a value.
    """
    if not custom:
        return {}
    if len(custom) > _MOST_HEADERS:
        raise InvalidJob(f"expected at most {_MOST_HEADERS} headers, got {len(custom)}")
    checked: dict[str, str] = {}
    for name, value in custom.items():
        check_header(name, value)
        lowered = name.lower()
        if lowered in RESERVED_HEADERS or lowered.startswith("webhook-"):
            raise InvalidJob(f"expected only headers that are the caller's, got '{lowered}'")
        if lowered in checked:
            raise InvalidJob(f"expected each header once, got '{lowered}' twice")
        checked[lowered] = value.strip(" \t")
    if sum(len(name) + len(value) for name, value in checked.items()) > _MOST_HEADER_BYTES:
        raise InvalidJob(f"expected headers of at most {_MOST_HEADER_BYTES} bytes in all")
    return checked


def check_header(name: str, value: str) -> None:
    """Refuse what could not be sent as one header line.

    Raises:
        InvalidJob: the name is no token, or the value would break the line.
    """
    if _HEADER.match(f"{name}\0{value}"):
        return
    if not _TOKEN.match(name):
        raise InvalidJob("expected a header's name to be a token, got one with other characters")
    if _CONTROL.search(value.replace("\t", " ")):
        raise InvalidJob(f"expected no control characters in header '{name.lower()}', got some")
    raise InvalidJob(f"expected latin-1 characters in header '{name.lower()}'")


def _spelled(host: str) -> str:
    """A host in the only spelling that is used from here on.

    Raises:
        InvalidJob: it is neither a name nor an address.
    """
    if not host:
        raise InvalidJob("expected a url with a host, got none")
    try:
        if ":" in host and "%" not in host:
            return str(IPv6Address(host))
        name = ascii_host(host)
        # Octal, hexadecimal and short forms too (0x7f000001, 127.1), as libcurl reads them.
        return inet_ntoa(inet_aton(name)) if _ENDS_IN_NUMBER.match(name) else name
    except InvalidHost as error:
        raise InvalidJob(f"in the url: {error}") from None
    except (ValueError, OSError):
        raise InvalidJob("expected a url with a valid IP address as its host") from None
