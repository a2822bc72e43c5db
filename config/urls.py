"""Addresses: what is checked of them, and how they are shown without what they hide."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from ..core.hosts import InvalidHost, ascii_url
from .parser import Expected

#: Schemes whose address is a path or nothing, without a host.
_HOSTLESS = {"unix", "chdb", "memory"}

#: Schemes that take several hosts, parted by commas, wherever they stand; and of these, those that
#: take several whole URLs, parted by semicolons.
_MANY_HOSTS = {"amqp", "amqps", "redis+sentinel", "rediss+sentinel"}
_MANY_URLS = {"amqp", "amqps"}

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}", re.IGNORECASE)


def url_check(
    *schemes: str, advice: str, plain: bool = False, many_hosts: bool = False
) -> Callable[[str], str]:
    """A check that a text is a URL of one of some schemes, as the library behind it reads it.

    It returns the URL with its hosts in ASCII, since those libraries turn a host of other
    characters into another name (IDNA 2003).

    Its errors quote nothing of the text but the scheme: the rest may hold a password.

    Args:
        advice: what to do about an unknown scheme.
        many_hosts: several hosts, parted by commas, are taken whatever the scheme.
        plain: refuse user info, query and fragment, so that the URL holds no secret.
    """
    known = [f"{scheme}://" for scheme in schemes]
    listed = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"

    def check(text: str) -> str:
        scheme = text.partition("://")[0].lower()
        urls = text.split(";") if scheme in _MANY_URLS else [text]
        return ";".join([check_one(url) for url in urls])

    def check_one(text: str) -> str:
        scheme, separator, _ = text.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise Expected(f"be a URL that starts with {listed}", got="no scheme", advice=advice)
        if scheme.lower() not in schemes:
            came = f"the unknown scheme '{scheme}'"
            raise Expected(f"be a URL that starts with {listed}", got=came, advice=advice)
        if scheme.lower() not in _HOSTLESS:
            text = _in_ascii(text)
        takes_many = many_hosts or scheme.lower() in _MANY_HOSTS
        for url in one_for_each_host(text) if takes_many else [text]:
            _check_parts(url, scheme.lower(), plain=plain)
        return text

    return check


def _in_ascii(url: str) -> str:
    try:
        return ascii_url(url)
    except InvalidHost:
        raise Expected(
            "be a URL with a host name", got="an invalid one", advice="check the host's spelling"
        ) from None


def one_for_each_host(text: str) -> list[str]:
    """A URL (with ``://``) of several hosts, parted by commas, as URLs of one each."""
    head, rest = text.split("://", 1)
    netloc, slash, tail = rest.partition("/")
    user, at, hosts = netloc.rpartition("@")
    return [f"{head}://{user}{at}{host}{slash}{tail}" for host in hosts.split(",")]


def _check_parts(text: str, scheme: str, *, plain: bool) -> None:
    parts = _split(text)
    if parts is None or re.search(r"\s", text):
        raise Expected(
            f"be a URL like {scheme}://user:password@host:port",
            got="one that cannot be read",
            advice="percent-encode special characters in its user and password",
        )
    # Not only an empty one: a '${HOST}' that nobody filled in is not a host either.
    if scheme not in _HOSTLESS and not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+(%\w+)?", _host(parts)):
        raise Expected("be a URL with a host name", got="one without", advice="name the host")
    if plain and (parts.username is not None or parts.query or parts.fragment):
        raise Expected(
            "be a URL without user, password, query and fragment",
            got="one with some of them",
            advice="it is written to logs; leave them out",
        )


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _host(parts: SplitResult) -> str:
    return parts.hostname or ""


def mask(url: str) -> str:
    """A URL with ``***`` for its user info and its query; scheme, hosts, port and path stay.

    What is not a URL is ``***`` altogether.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in _MANY_URLS and ";" in url:
        return ";".join(mask(one) for one in url.split(";"))
    singles = one_for_each_host(url) if "://" in url else [url]
    if any(_split(single) is None for single in singles):
        return "***"
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url:
        return "***"
    user, at, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{'***@' if at and user else ''}{hosts}{parts.path}"
    return shown + ("?***" if parts.query or parts.fragment else "")
