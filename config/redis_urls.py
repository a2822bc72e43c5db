"""Redis URLs: the only parser of them, for REDIS_URL and STATE_URL.

Every option of the query works or is refused by name. No error quotes a password. redis-py's own
parser reads no Sentinels, ignores a path that is no number, and passes on unknown options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from annotated_types import Ge, Gt
from pydantic import BeforeValidator, Field

from .expected import Expected, shown
from .types import AnyCase, Count, Decimal, Takes, Whole, expectation, read
from .urls import one_for_each_host, url_check

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The parts of a Redis URL.

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
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return hosts if self.service is None else f"{self.service} (Sentinels {hosts})"


_check = url_check(*_SCHEMES, advice="write redis://host:6379/0")
_check_state = url_check(*_SCHEMES, "memory", advice="write redis://host:6379/0 or memory://")


def check_redis_url(text: str) -> str:
    """Check a URL of Redis, and return it with its hosts in ASCII."""
    text = _check(text)
    _parse(text)
    return text


def check_state_url(text: str) -> str:
    """Check a URL of Redis, or ``memory://``, and return it with its hosts in ASCII."""
    text = _check_state(text)
    if not text.lower().startswith("memory:"):
        _parse(text)
    return text


def read_redis_url(text: str) -> RedisAddress:
    """Parse a URL with one of the schemes of Redis, in any case.

    Raises:
        Expected: the URL cannot be parsed, or an option is unknown or invalid.
    """
    return _parse(_check(text))


def _parse(url: str) -> RedisAddress:
    scheme = url.partition("://")[0].lower()
    is_sentinel, is_tls = scheme.endswith("+sentinel"), scheme.startswith("rediss")
    # All hosts stand before the same user, path and query.
    singles = [urlsplit(one) for one in (one_for_each_host(url) if is_sentinel else [url])]
    port = _SENTINEL_PORT if is_sentinel else _PORT
    hosts = tuple((parts.hostname or "", parts.port or port) for parts in singles)
    parts = singles[0]
    if parts.fragment or "@" in parts.query:
        raise Expected(
            "be a URL like redis://user:password@host:6379/0",
            got="a URL that cannot be parsed",
            advice="percent-encode special characters in its user and password",
        )
    options = _options(parts.query, is_tls=is_tls, is_sentinel=is_sentinel)
    service, database = _service_and_database(parts, is_sentinel=is_sentinel)
    option = options.pop("db", database)
    if database is not None and database != option:
        raise Expected("name one database", got=f"/{database} and the option db={option}")
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
        database=option or 0,
        username=unquote(parts.username or "") or options.pop("username", None),
        password=unquote(parts.password or "") or options.pop("password", None),
        options=options,
        sentinel_options=sentinel,
    )


def _service_and_database(
    parts: SplitResult, *, is_sentinel: bool
) -> tuple[str | None, int | None]:
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise Expected("be like unix:///path/redis.sock", got="no path")
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
        raise Expected("end with the number of a database, like /0", got="another text")
    return service, int(database) if database else None


# -- options -----------------------------------------------------------------------------


def _cert_reqs(text: str) -> str:
    # As redis-py spells it, Python's ssl module (CERT_NONE) or Celery (ssl.CERT_NONE).
    word = text.lower().removeprefix("ssl.").removeprefix("cert_")
    return {"0": "none", "1": "optional", "2": "required"}.get(word, word)


_Timeout = Annotated[Decimal, Gt(0), Takes("a number of seconds above 0")]
#: The options of a URL's query, with their types.
_OPTIONS: dict[str, Any] = {
    "db": Annotated[Whole, Ge(0)],
    "username": str,
    "password": str,
    "client_name": Annotated[
        str, Field(pattern=r"^[!-~]{1,200}$"), Takes("printable ASCII without spaces")
    ],
    "socket_timeout": _Timeout,
    "socket_connect_timeout": _Timeout,
    "socket_keepalive": bool,
    "health_check_interval": Annotated[Whole, Ge(0)],
    "max_connections": Count,
    "ssl_cert_reqs": Annotated[
        Literal["required", "optional", "none"], BeforeValidator(_cert_reqs)
    ],
    "ssl_check_hostname": bool,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "sentinel_username": str,
    "sentinel_password": str,
    "sentinel_tls": bool,
}
#: Options that formrelay sets itself: their only value is allowed and not passed on.
_FIXED: dict[str, Any] = {
    "decode_responses": Annotated[
        Literal["false", "no", "off", "0"],
        AnyCase,
        Takes("'false', or to leave it out: messages are bytes"),
    ],
    "protocol": Annotated[
        Literal["2"],
        Takes("2, or to leave it out: formrelay speaks RESP2, which every server understands"),
    ],
}
_KINDS = _OPTIONS | _FIXED


def _options(query: str, *, is_tls: bool, is_sentinel: bool) -> dict[str, Any]:
    given = parse_qsl(query, keep_blank_values=True)
    if is_sentinel and dict(given).get("sentinel_tls", "false").lower() != "false":
        is_tls = True
    allowed = {"ssl": is_tls, "sentinel": is_sentinel}
    known = [name for name in _KINDS if allowed.get(name.partition("_")[0], True)]
    options: dict[str, Any] = {}
    for name, text in given:
        if name not in known:
            raise _unknown(name, known)
        if name in options:
            raise Expected(f"set the option {name} once", got="it twice")
        if not text:
            raise Expected(f"give the option {name} a value", got="none")
        try:
            options[name] = read(_KINDS[name], text)
        except Expected:
            expected = f"set the option {name} to {expectation(_KINDS[name])}"
            raise Expected(expected, got=shown(text)) from None
    return {name: value for name, value in options.items() if name in _OPTIONS}


def _unknown(name: str, known: list[str]) -> Expected:
    # Anything that does not look like an option may be part of a password.
    got = f"the option {name}" if re.fullmatch(r"[a-z_]{2,40}", name) else "another one"
    if name in _KINDS:
        scheme, missing = (
            ("rediss", "TLS") if name.startswith("ssl_") else ("redis+sentinel", "Sentinels")
        )
        return Expected(f"start with {scheme}:// because it has {got}", got=f"no {missing}")
    return Expected(f"use only the options {', '.join(sorted(known))}", got=got, advice="remove it")
