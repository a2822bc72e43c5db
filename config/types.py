"""The types of variables, as ``Annotated`` types that carry their parser."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

from ..core.retry import LONGEST_WAIT
from .parser import Expected, Parser, optional, shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Longer than any sensible time-out; keeps a typing slip from overflowing a timedelta.
_LONGEST = timedelta(days=36_500)


def one_of(*choices: str) -> Parser:
    """One of some words, in any case."""
    quoted = [f"'{choice}'" for choice in choices]
    what = f"be {', '.join(quoted[:-1])} or {quoted[-1]}"

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise Expected(what)
        return text.lower()

    return Parser(read)


def whole(least: int, most: int | None = None) -> Parser:
    """A whole number in decimal digits."""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        # int() also takes '1_0', '١' and, slowly, a megabyte of digits.
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise Expected(f"be a whole number {limits}")
        number = int(text)
        if number < least or (most is not None and number > most):
            raise Expected(f"be a whole number {limits}")
        return number

    return Parser(read)


def _decimal(text: str) -> float | None:
    """A number in plain decimal notation: no 'nan', no 'inf', no '1e400'."""
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", text) else None


def _write_number(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def share() -> Parser:
    """A number from 0 to 1."""

    def read(text: str) -> float:
        number = _decimal(text)
        if number is None or not 0 <= number <= 1:
            raise Expected("be a number from 0 to 1")
        return number

    return Parser(read, _write_number)


def _read_duration(
    text: str, *, unit: str, per: timedelta, least: timedelta | None, most: timedelta
) -> timedelta:
    number = _decimal(text)
    floor = "above 0" if least is None else f"of at least {_write_number(least / per)}"
    if number is None:
        raise Expected(f"be a number of {unit} {floor}")
    # Compared before the conversion, which can overflow.
    if number > most / per:
        raise Expected(f"be a number of {unit} {floor} and at most {_write_number(most / per)}")
    duration = number * per
    if duration < least if least is not None else duration <= timedelta(0):
        raise Expected(f"be a number of {unit} {floor}")
    return duration


def duration(
    unit: str, per: timedelta, suffix: str, *, least: timedelta | None, most: timedelta = _LONGEST
) -> Parser:
    """A duration, given as a number of some unit.

    Args:
        unit: its name, plural.
        per: its length.
        least: the shortest that is taken; None is anything above 0.
    """
    read = partial(_read_duration, unit=unit, per=per, least=least, most=most)
    return Parser(read, lambda value: _write_number(value / per), unit=unit, suffix=suffix)


_SECOND = timedelta(seconds=1)
_ZERO = timedelta(0)

#: A time-out: anything above 0.
Seconds = Annotated[timedelta, duration("seconds", _SECOND, "_SECONDS", least=None)]
#: A period of something that the network has a part in: under a second would only flap.
WholeSeconds = Annotated[timedelta, duration("seconds", _SECOND, "_SECONDS", least=_SECOND)]
#: A wait between attempts.
_wait = duration("seconds", _SECOND, "_SECONDS", least=_ZERO, most=LONGEST_WAIT)
Wait = Annotated[timedelta, _wait]
Millis = Annotated[timedelta, duration("milliseconds", _SECOND / 1000, "_MS", least=None)]
MillisOrNone = Annotated[timedelta, duration("milliseconds", _SECOND / 1000, "_MS", least=_ZERO)]
Hours = Annotated[timedelta, duration("hours", timedelta(hours=1), "_HOURS", least=None)]
Days = Annotated[timedelta, duration("days", timedelta(days=1), "_DAYS", least=None)]
DaysOrNone = Annotated[timedelta, duration("days", timedelta(days=1), "_DAYS", least=_ZERO)]
#: How long rows are kept; None for ever. A longer one, added to the latest time that an event may
#: have, would be beyond ClickHouse's dates, which begin anew: the rows would go at once.
KeepDays = Annotated[
    timedelta | None,
    optional(
        duration(
            "days",
            timedelta(days=1),
            "_DAYS",
            least=timedelta(days=1),
            most=timedelta(days=15_000),
        )
    ),
]


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _written(items: Iterable[str]) -> str:
    return ",".join(items)


def _read_delays(text: str) -> tuple[timedelta, ...]:
    try:
        return tuple(_wait.read(item) for item in _list(text))
    except Expected:
        most = _write_number(LONGEST_WAIT / _SECOND)
        raise Expected(f"be seconds from 0 to {most}, comma-separated") from None


def _write_delays(delays: tuple[timedelta, ...]) -> str:
    return _written(_wait.write(delay) for delay in delays)


#: A retry schedule.
Delays = Annotated[
    tuple[timedelta, ...], Parser(_read_delays, _write_delays, unit="seconds, comma-separated")
]


def _read_networks(text: str) -> tuple[Network, ...]:
    networks: list[Network] = []
    for item in _list(text):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError:
            what = "be networks like 10.0.0.0/8 or fd00::/8, comma-separated"
            # The common slip: an address inside a network, with the network's length.
            advice = "the bits after the prefix must be 0" if _has_host_bits(item) else ""
            raise Expected(what, got=shown(item), advice=advice) from None
    return tuple(networks)


def _has_host_bits(item: str) -> bool:
    try:
        ipaddress.ip_network(item, strict=False)
    except ValueError:
        return False
    return True


Networks = Annotated[
    tuple[Network, ...], Parser(_read_networks, lambda networks: _written(map(str, networks)))
]


def _read_statuses(text: str) -> tuple[int, ...]:
    found = []
    for item in _list(text):
        if not re.fullmatch(r"[45][0-9]{2}", item):
            raise Expected(
                "be HTTP statuses from 400 to 599, comma-separated, like 400,422", got=shown(item)
            )
        found.append(int(item))
    return tuple(found)


#: Statuses of HTTP that are failures.
Statuses = Annotated[
    tuple[int, ...], Parser(_read_statuses, lambda statuses: _written(map(str, statuses)))
]


def _read_adopted(text: str) -> tuple[tuple[str, str | None], ...]:
    adopted = []
    for one in text.split(","):
        queue, equals, exchange = one.strip().partition("=")
        if not queue or (equals and not exchange):
            raise Expected(
                "be queues, comma-separated, each with or without its dead-letter exchange "
                "(webhook_tasks=dlx.webhook)",
                got=f"{one.strip()!r}",
            )
        adopted.append((queue, exchange or None))
    return tuple(adopted)


def _write_adopted(adopted: tuple[tuple[str, str | None], ...]) -> str:
    return ",".join(f"{queue}={exchange}" if exchange else queue for queue, exchange in adopted)


Adopted = Annotated[tuple[tuple[str, str | None], ...], Parser(_read_adopted, _write_adopted)]

_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
#: Tables of formrelay's own, and what the migrations make beside a table of events.
_TAKEN = re.compile(
    r"webhook_deliveries|formrelay_migrations|.*_(once|daily|daily_states|daily_feed)"
)


def _read_tables(text: str) -> tuple[tuple[str, str], ...]:
    tables: dict[str, str] = {}
    for one in _list(text):
        pattern, _, table = (part.strip() for part in one.partition("="))
        if not re.fullmatch(r"[^*]+\*?|\*", pattern) or not _TABLE.fullmatch(table):
            raise Expected(
                "be event types and the tables they go into, comma-separated "
                "(payment.*=payments,user.deleted=audit)",
                got=shown(one),
                advice="a type may end in '*'; a table is letters, digits and '_'",
            )
        if _TAKEN.fullmatch(table):
            raise Expected(
                "be event types and tables of their own",
                got=f"the table {shown(table)}",
                advice="formrelay uses that name itself; choose another",
            )
        if pattern in tables:
            raise Expected("be each pattern once", got=f"{shown(pattern)} twice")
        tables[pattern] = table
    return tuple(tables.items())


#: Patterns of event types, each with its table; the first that matches counts.
Tables = Annotated[
    tuple[tuple[str, str], ...],
    Parser(_read_tables, lambda tables: _written("=".join(one) for one in tables)),
]

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def _read_bool(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise Expected("be 'true' or 'false'")
    return _BOOLEANS[text.lower()]


TRUE_OR_FALSE = Parser(_read_bool, lambda value: "true" if value else "false")
Bool = Annotated[bool, TRUE_OR_FALSE]


def matching(pattern: str, what: str, *, but: str | None = None) -> Parser:
    """A text that fits one regular expression and not another."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text) or (but and re.search(but, text)):
            raise Expected(what)
        return text

    return Parser(read)


#: Dramatiq's own rule, and names that its dead-letter and delay queues would shadow.
QueueName = Annotated[
    str,
    matching(
        r"[a-zA-Z_][a-zA-Z0-9._-]*",
        "be a queue name (letters, digits, '.', '_' and '-'; the first a letter or '_';"
        " not ending in .DQ or .XQ)",
        but=r"\.(DQ|XQ)$",
    ),
]


def _read_path(text: str) -> Path:
    try:
        # '?' and '#' would end the path inside the chdb:// address made from it.
        if set(text) & set("\0?#"):
            raise ValueError
        return Path(text).expanduser()
    except (ValueError, RuntimeError):  # RuntimeError: no such user in ~user
        raise Expected("be a path without '?', '#' or NUL") from None


Folder = Annotated[Path, Parser(_read_path, lambda path: path.as_posix())]

#: The levels of Python, and what programs in Node call them.
_LEVELS = {
    **{name.lower(): name for name in ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")},
    "fatal": "CRITICAL",
    "warn": "WARNING",
    "verbose": "DEBUG",
    "trace": "DEBUG",
}


def _read_level(text: str) -> str:
    if text.lower() not in _LEVELS:
        raise Expected(f"be one of {', '.join(name.upper() for name in _LEVELS)}")
    return _LEVELS[text.lower()]


LogLevel = Annotated[str, Parser(_read_level)]

Text = Annotated[str, Parser(str)]
