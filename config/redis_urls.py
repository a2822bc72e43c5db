"""Redis addresses: the one place that reads them, for REDIS_URL and STATE_URL alike.

Every option works or is refused by name. No error quotes a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .parser import Expected, shown
from .urls import one_for_each_host, url_check

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a Redis URL says.

    Attributes:
        hosts: host and port of the server, or of each Sentinel; none for a socket.
        path: of the socket; None over TCP.
        service: the master's name at the Sentinels; None without Sentinels.
        is_tls: whether the server speaks TLS.
        database: number of the database.
        username, password: of the server, decoded.
        options: keyword arguments of redis-py by name, typed.
        sentinel_options: the same for the connections to the Sentinels.
    """

    hosts: tuple[tuple[str, int], ...]
    path: str | None
    service: str | None
    is_tls: bool
    database: int
    username: str | None
    password: str | None
    options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]

    def __str__(self) -> str:
        """The address for messages, without user, password and options."""
        if self.path is not None:
            return self.path
        hosts = [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        ]
        if self.service is not None:
            return f"{self.service} (Sentinels {','.join(hosts)})"
        return hosts[0]


def redis_url_check(*more_schemes: str, advice: str) -> Callable[[str], str]:
    """A check that a text is a Redis URL, or one of some other schemes.

    Args:
        more_schemes: URLs of these schemes are not looked into.
        advice: what to do about an unknown scheme.
    """
    check_scheme = url_check(*SCHEMES, *more_schemes, advice=advice)

    def check(text: str) -> str:
        text = check_scheme(text)
        if text.partition("://")[0].lower() not in more_schemes:
            read_redis_url(text)
        return text

    return check


def read_redis_url(text: str) -> RedisAddress:
    """Read a URL whose scheme is one of :data:`SCHEMES`, in any case.

    Raises:
        Expected: it cannot be read, or an option is unknown or wrong.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    is_sentinel, is_tls = scheme.endswith("+sentinel"), scheme.startswith("rediss")
    singles = [f"{scheme}://{rest}"]
    if is_sentinel:
        singles = one_for_each_host(singles[0])
    try:
        all_parts = [urlsplit(single) for single in singles]
        port = _SENTINEL_PORT if is_sentinel else _PORT
        # All hosts stand before the same user, path and query.
        hosts = tuple((parts.hostname or "localhost", parts.port or port) for parts in all_parts)
    except ValueError:
        raise _unreadable() from None
    parts = all_parts[0]
    if parts.fragment or "@" in parts.query:
        raise _unreadable()
    options = _options(parts.query, is_tls=is_tls, is_sentinel=is_sentinel)
    service, database = _service_and_database(parts, is_sentinel=is_sentinel)
    if (asked := options.pop("db", None)) is not None:
        if database is not None and database != asked:
            raise Expected("name one database", got=f"/{database} and the option db={asked}")
        database = asked
    sentinel = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in list(options)
        if name.startswith("sentinel_")
    }
    return RedisAddress(
        hosts=() if scheme == "unix" else hosts,
        path=unquote(parts.path) if scheme == "unix" else None,
        service=service,
        is_tls=is_tls,
        database=database or 0,
        username=unquote(parts.username or "") or options.pop("username", None),
        password=unquote(parts.password or "") or options.pop("password", None),
        options=MappingProxyType(options),
        sentinel_options=MappingProxyType(sentinel),
    )


def _unreadable() -> Expected:
    return Expected(
        "be a URL like redis://user:password@host:6379/0",
        got="a URL that cannot be parsed",
        advice="percent-encode special characters in its user and password",
    )


def _service_and_database(
    parts: SplitResult, *, is_sentinel: bool
) -> tuple[str | None, int | None]:
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise Expected("be like unix:///path/redis.sock", got="no path of a socket")
        return None, None
    service, database = None, parts.path.strip("/")
    if is_sentinel:
        service, _, database = database.partition("/")
        if not service:
            raise Expected(
                "name the service that the Sentinels watch, like "
                "redis+sentinel://host:26379/mymaster",
                got="none",
            )
        service = unquote(service)
    # Not quoted: an unencoded password may have ended up here.
    if not re.fullmatch(r"[0-9]{0,6}", database):
        raise Expected(
            "end in the number of a database, like /0", got="something else in its place"
        )
    return service, int(database) if database else None


# -- options -----------------------------------------------------------------------------


def _whole(least: int) -> Callable[[str], Any]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise Expected(f"a whole number of at least {least}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) <= 0:
        raise Expected("a number of seconds above 0")
    return float(text)


def _bool(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise Expected("'true' or 'false'")


_CERT_REQS = {"0": "none", "1": "optional", "2": "required"}


def _cert_reqs(text: str) -> str:
    """As redis-py spells it, Python's ssl module (``CERT_NONE``) or Celery (``ssl.CERT_NONE``)."""
    found = text.lower().removeprefix("ssl.").removeprefix("cert_")
    found = _CERT_REQS.get(found, found)
    if found not in _CERT_REQS.values():
        raise Expected("'required', 'optional' or 'none'")
    return found


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", text):
        raise Expected("printable ASCII without spaces")
    return text


def _resp2(text: str) -> None:
    if text != "2":
        raise Expected("2 or left out: formrelay speaks RESP2, which every server understands")


def _no_decoding(text: str) -> None:
    if _bool(text):
        raise Expected("'false' or left out: messages are bytes")


#: Every option, with the function that reads its text. None of them is passed on.
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _whole(0),
    "username": str,
    "password": str,
    "client_name": _name,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "socket_keepalive": _bool,
    "health_check_interval": _whole(0),
    "max_connections": _whole(1),
    "decode_responses": _no_decoding,
    "protocol": _resp2,
}
_TLS_OPTIONS: dict[str, Callable[[str], Any]] = {
    "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _bool,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
}
_SENTINEL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "sentinel_username": str,
    "sentinel_password": str,
    "sentinel_tls": _bool,
}
_SECRET = {"username", "password", "ssl_password", "sentinel_username", "sentinel_password"}


def _options(query: str, *, is_tls: bool, is_sentinel: bool) -> dict[str, Any]:
    known = dict(_OPTIONS)
    if is_sentinel:
        known |= _SENTINEL_OPTIONS
    given = parse_qsl(query, keep_blank_values=True)
    sentinel_tls = any(name == "sentinel_tls" and text.lower() != "false" for name, text in given)
    if is_tls or (is_sentinel and sentinel_tls):
        known |= _TLS_OPTIONS
    found: dict[str, Any] = {}
    for name, text in given:
        if name not in known:
            raise _unknown(name, known)
        if name in found:
            raise Expected(f"have the option {name} once", got="it twice")
        found[name] = _read(name, text, known[name])
    return {name: value for name, value in found.items() if value is not None}


def _unknown(name: str, known: Mapping[str, Any]) -> Expected:
    # What does not look like an option may be part of a password.
    said = f"the option {name}" if re.fullmatch(r"[a-z_]{2,40}", name) else "another one"
    if name in _TLS_OPTIONS:
        return Expected(f"start with rediss:// where it has {said}", got="no TLS")
    if name in _SENTINEL_OPTIONS:
        return Expected(f"start with redis+sentinel:// where it has {said}", got="no Sentinels")
    return Expected(f"have no options but {', '.join(sorted(known))}", got=said, advice="remove it")


def _read(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        if not text:
            raise Expected("set to something")
        return read(text)
    except Expected as error:
        got = "a value that is not shown" if name in _SECRET else shown(text)
        raise Expected(f"have an option {name} that is {error.what}", got=got) from None
