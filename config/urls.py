"""URLs: how they are checked, and how they are shown without their secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from ..core.hosts import InvalidHost, ascii_url
from .expected import Expected

#: Schemes of URLs with a path or nothing, without a host.
_HOSTLESS = {"unix", "chdb", "memory"}
#: Schemes that take several hosts, comma-separated; and several URLs, separated by semicolons.
_MANY_HOSTS = {"amqp", "amqps", "redis+sentinel", "rediss+sentinel"}
_MANY_URLS = {"amqp", "amqps"}


def url_check(
    *schemes: str, advice: str, plain: bool = False, many_hosts: bool = False
) -> Callable[[str], str]:
    """Make a check that a text is a URL with one of ``schemes``.

    The check returns the URL with its hosts in ASCII: the libraries that use it would turn other
    characters into another host (IDNA 2003). Its errors quote nothing but the scheme, since
    everything else may be a password.

    Args:
        advice: what to do about an unknown scheme.
        many_hosts: take several hosts, comma-separated, with every scheme.
        plain: refuse user, password, query and fragment, so that the URL holds no secret.
    """
    *most, last = [f"{scheme}://" for scheme in schemes]
    listed = f"{', '.join(most)} or {last}"

    def check(text: str) -> str:
        return ";".join([check_one(url) for url in _urls(text)])

    def check_one(text: str) -> str:
        name, separator, _ = text.partition("://")
        scheme = name.lower()
        if scheme not in schemes or not separator:
            # Not quoted if it is no scheme: it may be a password.
            is_scheme = separator and re.fullmatch(r"[a-z][a-z0-9+.-]{0,31}", scheme)
            got = f"the unknown scheme '{scheme}'" if is_scheme else "no scheme"
            raise Expected(f"be a URL that starts with {listed}", got=got, advice=advice)
        try:
            text = text if scheme in _HOSTLESS else ascii_url(text)
        except InvalidHost:
            raise Expected(
                "be a URL with a host name", got="an invalid one", advice="check its spelling"
            ) from None
        for url in one_for_each_host(text) if many_hosts or scheme in _MANY_HOSTS else [text]:
            _check_parts(url, scheme, plain=plain)
        return text

    return check


def _urls(text: str) -> list[str]:
    is_many = text.partition("://")[0].lower() in _MANY_URLS
    return text.split(";") if is_many else [text]


def one_for_each_host(url: str) -> list[str]:
    """Split a URL with several hosts, comma-separated, into URLs with one host."""
    head, rest = url.split("://", 1)
    netloc, slash, tail = rest.partition("/")
    user, at, hosts = netloc.rpartition("@")
    return [f"{head}://{user}{at}{host}{slash}{tail}" for host in hosts.split(",")]


def _check_parts(text: str, scheme: str, *, plain: bool) -> None:
    parts = _split(text)
    if parts is None or re.search(r"\s", text):
        is_path = scheme in _HOSTLESS
        raise Expected(
            f"be a URL like {scheme}://{'/path' if is_path else 'user:password@host:port'}",
            got="a URL that cannot be parsed",
            advice="percent-encode special characters in its "
            + ("path" if is_path else "user and password"),
        )
    # A '${HOST}' that nobody filled in is no host either.
    host = parts.hostname or ""
    if scheme not in _HOSTLESS and not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+(%\w+)?", host):
        raise Expected("be a URL with a host name", got="none", advice="name the host")
    # Also an empty query or fragment: a path is appended to the URL.
    if plain and (parts.username is not None or re.search("[?#]", text)):
        raise Expected(
            "be a URL without user, password, query and fragment",
            got="one of them",
            advice="remove them: the URL is written to logs",
        )


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def mask(url: str) -> str:
    """Replace user, password and query by ``***``; and a text that is not a URL."""
    return ";".join(map(_masked, _urls(url)))


def _masked(url: str) -> str:
    if "://" not in url or any(_split(single) is None for single in one_for_each_host(url)):
        return "***"
    parts = urlsplit(url)
    if not parts.scheme:
        return "***"
    user, at, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{'***@' if at and user else ''}{hosts}{parts.path}"
    return shown + ("?***" if parts.query or parts.fragment else "")


def mask_path(url: str) -> str:
    """Replace everything but scheme and host by ``***``."""
    shown = mask(url)
    scheme, separator, rest = shown.partition("://")
    host = rest.partition("/")[0].partition("?")[0]
    return f"{scheme}://{host}/***" if separator else shown
