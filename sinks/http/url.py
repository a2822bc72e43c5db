"""Checks a URL and converts it to a canonical spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address
from socket import inet_aton, inet_ntoa
from urllib.parse import quote, urlsplit

from ...core.errors import InvalidJob
from ...core.hosts import InvalidHost, ascii_host

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# By the URL standard, a host whose last label is a number must be an IPv4 address.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_MAX_CHARACTERS = 8_000


class HttpNotAllowed(InvalidJob):
    """The URL begins with http:// where https:// is needed."""


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A checked URL in canonical spelling.

    Attributes:
        url: the whole URL, whose path and query may contain secrets.
        host: host in ASCII and lower case, an IPv4 address in decimal; safe to log. DNS, TLS, the
            Host header, kept connections and endpoint ids use this spelling.
    """

    url: str
    host: str
    scheme: str
    port: int


@lru_cache(maxsize=1024)  # a job's URL is checked several times
def check_url(url: str, *, allow_http: bool = False) -> CheckedUrl:
    """Check a URL and rebuild it from its parts.

    A rebuilt URL contains nothing that two parsers could read differently (backslashes, user info,
    control characters). The addresses of its host are checked later, when libcurl connects.

    Raises:
        InvalidJob: the URL is invalid. The message never quotes it.
        HttpNotAllowed: it begins with http://.
    """
    if len(url) > _MAX_CHARACTERS:
        raise InvalidJob(f"expected a url of at most {_MAX_CHARACTERS} characters")
    if _CONTROL.search(url) or "\\" in url or url != url.strip():
        raise InvalidJob(
            "expected a url without control characters, backslashes, leading or trailing spaces"
        )
    if _SURROGATE.search(url):
        raise InvalidJob("expected a url of valid Unicode, got half of a surrogate pair")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidJob("expected a url with a valid host and port") from None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise InvalidJob("expected a url that begins with https://")
    if scheme == "http" and not allow_http:
        raise HttpNotAllowed("expected an https url, got http")
    if "@" in parts.netloc:
        raise InvalidJob("expected a url without user and password")
    if port == 0:
        raise InvalidJob("expected a url with a port from 1 to 65535")
    host = _canonical_host(host)
    netloc = f"[{host}]" if ":" in host else host
    if port:
        netloc = f"{netloc}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._[]')}" if parts.query else ""
    port = port or (443 if scheme == "https" else 80)
    return CheckedUrl(f"{scheme}://{netloc}{path}{query}", host, scheme, port)


def _canonical_host(host: str) -> str:
    """Convert a host to its canonical spelling.

    Raises:
        InvalidJob: the host is neither a name nor an IP address.
    """
    if not host:
        raise InvalidJob("expected a url with a host, got none")
    try:
        if ":" in host and "%" not in host:
            return str(IPv6Address(host))
        name = ascii_host(host)
        # Accepts octal, hexadecimal and short forms (0x7f000001, 127.1), as libcurl does.
        return inet_ntoa(inet_aton(name)) if _ENDS_IN_NUMBER.match(name) else name
    except InvalidHost as error:
        raise InvalidJob(f"in the url: {error}") from None
    except (ValueError, OSError):
        raise InvalidJob("expected a url with a valid IP address as its host") from None
