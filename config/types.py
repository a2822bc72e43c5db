"""The types of settings: pydantic's types, with the text of a variable as their input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Interval
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema

from ..core.retry import LONGEST_WAIT
from .base import CONFIG
from .expected import Expected, shown


@dataclass(frozen=True)
class Takes:
    """Part of an ``Annotated`` type: describes its values, to follow "expected NAME to be".

    For types whose limits do not describe them (see :func:`expectation`).
    """

    text: str


# -- numbers, words ----------------------------------------------------------------------


def _written_as(pattern: str) -> BeforeValidator:
    """Refuse texts that pydantic reads as numbers: '1_0', '1.0' for a whole number, 'inf'."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError("not in decimal notation")
        return value

    return BeforeValidator(check)


_DECIMAL = r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?"

Whole = Annotated[int, _written_as(r"[+-]?[0-9]{1,18}")]
#: At least 1.
Count = Annotated[Whole, Ge(1)]
Decimal = Annotated[float, _written_as(_DECIMAL)]

#: For a ``Literal`` of lower-case words: the text may have any case.
AnyCase = BeforeValidator(str.lower)

_LEVELS = {"FATAL": "CRITICAL", "WARN": "WARNING", "VERBOSE": "DEBUG", "TRACE": "DEBUG"}
#: A level of Python's logging or of Node's loggers, in any case.
LogLevel = Annotated[
    Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"],
    BeforeValidator(lambda text: _LEVELS.get(text.upper(), text.upper())),
]

#: Dramatiq's rule, without the names of its own dead-letter and delay queues.
QueueName = Annotated[
    str,
    Field(pattern=r"^(?!.*\.(DQ|XQ)\Z)[a-zA-Z_][a-zA-Z0-9._-]*\Z"),
    Takes(
        "a queue name (letters, digits, '.', '_' and '-'; the first a letter or '_';"
        " not ending in .DQ or .XQ)"
    ),
]


def _read_folder(value: str | Path) -> Path:
    # '?' and '#' would end the path inside the chdb:// URL made from it.
    if set(str(value)) & set("\0?#"):
        raise ValueError("not usable in a URL")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("no such user") from None


Folder = Annotated[Path, BeforeValidator(_read_folder), Takes("a path without '?', '#' or NUL")]


# -- durations ---------------------------------------------------------------------------

#: Longer than any sensible duration; a typing error must not overflow a timedelta or a date.
_LONGEST = timedelta(days=36_500)
_ZERO = timedelta(0)


@dataclass(frozen=True)
class Unit:
    """The unit of a duration: reads the number that the variable holds.

    Attributes:
        name: plural.
        suffix: end of the variable's name.
    """

    name: str
    length: timedelta
    suffix: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(_DECIMAL, value):
            raise ValueError("not in decimal notation")
        if float(value) > self.number(_LONGEST):
            raise Expected(f"be a number of {self.name} of at most {text_of(_LONGEST, self)}")
        return float(value) * self.length

    def number(self, duration: timedelta) -> float:
        """The duration in this unit."""
        return duration / self.length


SECONDS = Unit("seconds", timedelta(seconds=1), "_SECONDS")
MILLISECONDS = Unit("milliseconds", timedelta(milliseconds=1), "_MS")
HOURS = Unit("hours", timedelta(hours=1), "_HOURS")
DAYS = Unit("days", timedelta(days=1), "_DAYS")

# The limits stand next to timedelta, inside the unit: pydantic 2.7 can only check them there.
Seconds = Annotated[timedelta, Gt(_ZERO), SECONDS]
#: A period that covers a network round trip; less than a second would end too early.
SecondsFromOne = Annotated[timedelta, Ge(timedelta(seconds=1)), SECONDS]
#: A delay before an attempt.
Delay = Annotated[timedelta, Interval(ge=_ZERO, le=LONGEST_WAIT), SECONDS]
Milliseconds = Annotated[timedelta, Gt(_ZERO), MILLISECONDS]
#: An interval: a number of seconds, written by mistake, would be too short.
MillisecondsFrom100 = Annotated[timedelta, Ge(timedelta(milliseconds=100)), MILLISECONDS]
MillisecondsOrZero = Annotated[timedelta, Ge(_ZERO), MILLISECONDS]
Hours = Annotated[timedelta, Gt(_ZERO), HOURS]
Days = Annotated[timedelta, Gt(_ZERO), DAYS]
DaysOrZero = Annotated[timedelta, Ge(_ZERO), DAYS]
#: How long ClickHouse keeps a row. Its dates wrap around: with a longer period the sum with an
#: event's latest possible time would be a date in the past, and the row deleted at once.
KeepDays = Annotated[timedelta, Interval(ge=timedelta(days=1), le=timedelta(days=15_000)), DAYS]


# -- lists, comma-separated --------------------------------------------------------------


def split(text: str) -> list[str]:
    """The items of a comma-separated list."""
    return [item.strip() for item in text.split(",")]


#: Reads a comma-separated text as a list, for a tuple type.
Split = BeforeValidator(lambda value: split(value) if isinstance(value, str) else value)


def _read_pair(value: object) -> object:
    if not isinstance(value, str):
        return value
    name, equals, other = value.partition("=")
    return name.strip(), other.strip() if equals else None


#: Reads 'name=other' as a pair, and 'name' as a pair with None.
Pair = BeforeValidator(_read_pair)
_Word = Annotated[str, Field(min_length=1)]

Delays = Annotated[
    tuple[Delay, ...],
    Split,
    Takes(f"seconds from 0 to {LONGEST_WAIT.total_seconds():.0f}, comma-separated"),
]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    Split,
    Takes("networks like 10.0.0.0/8 or fd00::/8, comma-separated; the bits after the prefix are 0"),
]
Statuses = Annotated[
    tuple[Annotated[Whole, Interval(ge=400, le=599)], ...],
    Split,
    Takes("HTTP statuses from 400 to 599, comma-separated, like 400,422"),
]
#: Queues of an older system, each with its dead-letter exchange or None.
AdoptedQueues = Annotated[
    tuple[Annotated[tuple[_Word, _Word | None], Pair], ...],
    Split,
    Takes(
        "queues, comma-separated, each with or without its dead-letter exchange "
        "(webhook_tasks=dlx.webhook)"
    ),
]

ModuleNames = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*\Z")], ...],
    Split,
    Takes("names of Python modules, comma-separated, like myapp.actors"),
]

#: formrelay's own tables, and the views and roll-ups of the tables of events.
_RESERVED_TABLE = re.compile(
    r"webhook_deliveries|formrelay_migrations|.*_(once|daily|daily_states|daily_feed)"
)


def _unreserved(table: str) -> str:
    if _RESERVED_TABLE.fullmatch(table):
        raise Expected(
            "be event types and tables of their own",
            got=f"the table {shown(table)}",
            advice="formrelay uses that name itself; choose another",
        )
    return table


def _unique(tables: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    patterns = [pattern for pattern, _ in tables]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise Expected("name each event type once", got=f"{shown(pattern)} twice")
    return tables


_EventTypes = Annotated[str, Field(pattern=r"^([^*]+\*?|\*)\Z")]
_Table = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z"), AfterValidator(_unreserved)
]
#: Patterns of event types, each with its table; the first match counts.
Tables = Annotated[
    tuple[Annotated[tuple[_EventTypes, _Table], Pair], ...],
    Split,
    AfterValidator(_unique),
    Takes(
        "event types, which may end in '*', and their tables (letters, digits and '_'), "
        "comma-separated (payment.*=payments,user.deleted=audit)"
    ),
]


# -- from text to value and back ---------------------------------------------------------


def read(kind: Any, value: object) -> Any:
    """Read a value of a type.

    Args:
        value: the text of a variable, or a file with a secret.

    Raises:
        Expected: the type does not take the value.
    """
    try:
        return TypeAdapter(kind, config=CONFIG).validate_python(value)
    except ValidationError as caught:
        detail = caught.errors(include_url=False, include_input=False)[0]
    error = detail.get("ctx", {}).get("error")
    if not isinstance(error, Expected):
        error = Expected(f"be {expectation(kind)}")
    index = next((part for part in detail["loc"] if isinstance(part, int)), None)
    if index is not None:
        error.got = error.got or shown(split(str(value))[index])
    raise error


def text_of(value: object, unit: Unit | None = None) -> str:
    """The text of a variable for its value; a duration in its unit, by default seconds."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case timedelta():
            return text_of((unit or SECONDS).number(value))
        case float():
            return f"{value:.6f}".rstrip("0").rstrip(".")
        case (str(), str() | None):
            return "=".join(filter(None, value))
        case (str() as name, int() | float() as number):
            return text_of(number) if name == "*" else f"{name}={text_of(number)}"
        case tuple():
            return ",".join(text_of(item, unit) for item in value)
    return str(value)


def parts(kind: Any) -> tuple[Any, list[Any]]:
    """Split a type into its plain type, without ``Annotated`` and None, and its metadata."""
    marks: list[Any] = []
    while True:
        args = [arg for arg in get_args(kind) if arg is not NoneType]
        if get_origin(kind) is Annotated:
            kind, *more = args
            marks += more
        elif len(args) == 1 and NoneType in get_args(kind):
            (kind,) = args
        else:
            return kind, marks


def expectation(kind: Any) -> str:
    """Describe the values of a type, to follow "expected NAME to be"."""
    plain, marks = parts(kind)
    for mark in marks:
        if isinstance(mark, Takes):
            return mark.text
    for mark in marks:
        if pattern := getattr(mark, "pattern", None):
            return f"text that matches {pattern}"
    if get_origin(plain) is Literal:
        *others, last = [f"'{word}'" for word in get_args(plain)]
        return f"{', '.join(others)} or {last}"
    if plain is bool:
        return "'true' or 'false'"
    unit = next((mark for mark in marks if isinstance(mark, Unit)), None)
    if unit is None and plain not in (int, float):
        return "valid"
    noun = "a whole number" if plain is int else f"a number of {unit.name}" if unit else "a number"
    limits = {
        name: text_of(limit, unit)
        for mark in marks
        for name in ("gt", "ge", "le")
        if (limit := getattr(mark, name, None)) is not None
    }
    if {"ge", "le"} <= limits.keys():
        return f"{noun} from {limits['ge']} to {limits['le']}"
    words = {"gt": "above", "ge": "of at least", "le": "of at most"}
    limited = " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())
    return f"{noun} {limited}".strip()
