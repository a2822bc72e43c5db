"""Redis URLs: the only parser of them, for REDIS_URL and STATE_URL.

Every option of the query works or is refused by name. No error quotes a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from annotated_types import Ge, Gt
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .expected import Expected, shown
from .types import Decimal, Takes, Whole, expectation
from .urls import one_for_each_host, url_check

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

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
        hosts = [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        ]
        if self.service is not None:
            return f"{self.service} (Sentinels {','.join(hosts)})"
        return hosts[0]


def redis_url_check(*more_schemes: str, advice: str) -> Callable[[str], str]:
    """Make a check that a text is a Redis URL, or a URL with one of ``more_schemes``.

    Args:
        more_schemes: URLs with these schemes are not parsed.
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
    """Parse a URL with one of :data:`SCHEMES`, in any case.

    Raises:
        Expected: the URL cannot be parsed, or an option is unknown or invalid.
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
    if (option := options.pop("db", None)) is not None:
        if database is not None and database != option:
            raise Expected("name one database", got=f"/{database} and the option db={option}")
        database = option
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


def _only(*allowed: object) -> AfterValidator:
    def check(value: object) -> object:
        if value not in allowed:
            raise ValueError("not supported")
        return value

    return AfterValidator(check)


class _Options(TypedDict, total=False):
    """The options of a URL's query."""

    db: Annotated[Whole, Ge(0)]
    username: str
    password: str
    client_name: Annotated[
        str, Field(pattern=r"^[!-~]{1,200}$"), Takes("printable ASCII without spaces")
    ]
    socket_timeout: Annotated[Decimal, Gt(0), Takes("a number of seconds above 0")]
    socket_connect_timeout: Annotated[Decimal, Gt(0), Takes("a number of seconds above 0")]
    socket_keepalive: bool
    health_check_interval: Annotated[Whole, Ge(0)]
    max_connections: Annotated[Whole, Ge(1)]
    decode_responses: Annotated[
        bool, _only(False), Takes("'false', or to leave it out: messages are bytes")
    ]
    protocol: Annotated[
        Whole,
        _only(2),
        Takes("2, or to leave it out: formrelay speaks RESP2, which every server understands"),
    ]
    ssl_cert_reqs: Annotated[Literal["required", "optional", "none"], BeforeValidator(_cert_reqs)]
    ssl_check_hostname: bool
    ssl_ca_certs: str
    ssl_ca_path: str
    ssl_certfile: str
    ssl_keyfile: str
    ssl_password: str
    sentinel_username: str
    sentinel_password: str
    sentinel_tls: bool


_TYPES = get_type_hints(_Options, include_extras=True)
_ADAPTER = TypeAdapter(_Options)
#: Options that redis-py must not get: formrelay sets them itself.
_FIXED = {"decode_responses", "protocol"}


def _options(query: str, *, is_tls: bool, is_sentinel: bool) -> dict[str, Any]:
    given = parse_qsl(query, keep_blank_values=True)
    texts = dict(given)
    if is_sentinel and texts.get("sentinel_tls", "false").lower() != "false":
        is_tls = True
    refused = {"ssl_": not is_tls, "sentinel_": not is_sentinel}
    known = [
        name for name in _TYPES if not any(no and name.startswith(of) for of, no in refused.items())
    ]
    for name, text in given:
        if name not in known:
            raise _unknown(name, known)
        if [other for other, _ in given].count(name) > 1:
            raise Expected(f"set the option {name} once", got="it twice")
        if not text:
            raise Expected(f"give the option {name} a value", got="none")
    try:
        options = _ADAPTER.validate_python(texts)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
    else:
        return {name: value for name, value in options.items() if name not in _FIXED}
    got = shown(texts[name])
    raise Expected(f"set the option {name} to {expectation(_TYPES[name])}", got=got)


def _unknown(name: str, known: list[str]) -> Expected:
    # Anything that does not look like an option may be part of a password.
    got = f"the option {name}" if re.fullmatch(r"[a-z_]{2,40}", name) else "another one"
    if name in _TYPES:
        scheme, missing = (
            ("rediss", "TLS") if name.startswith("ssl_") else ("redis+sentinel", "Sentinels")
        )
        return Expected(f"start with {scheme}:// because it has {got}", got=f"no {missing}")
    return Expected(f"use only the options {', '.join(sorted(known))}", got=got, advice="remove it")
