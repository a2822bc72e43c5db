"""The URL of a webhook, checked and written in one spelling."""

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
# By the URL standard a host whose last label is a number is an IPv4 address, or nothing.
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_MAX_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL that was checked. ``url`` may hold secrets in its query; ``host`` is safe to log.

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
def check_url(url: str, *, allow_http: bool = False) -> CheckedUrl:
    """Check the URL of a webhook and put it together again from its parts.

    Putting it together again leaves nothing over which two parsers could
    disagree (backslashes, userinfo, control characters); what its host
    resolves to is checked when it is dialled.

    Raises:
        InvalidJob: it cannot be right. The message never quotes it.
    """
    if len(url) > _MAX_CHARACTERS:
        raise InvalidJob(f"expected a url of at most {_MAX_CHARACTERS} characters")
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
    host = _canonical_host(host)
    netloc = f"[{host}]" if ":" in host else host
    if port:
        netloc = f"{netloc}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~-._[]')}" if parts.query else ""
    at = port or (443 if scheme == "https" else 80)
    return CheckedUrl(f"{scheme}://{netloc}{path}{query}", host, scheme, at)


def _canonical_host(host: str) -> str:
    """A host in its canonical spelling.

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
