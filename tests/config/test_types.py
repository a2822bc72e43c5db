"""Arithmetic of the variables' types."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from formrelay.config.parser import Expected, Parser
from formrelay.config.types import (
    Bool,
    Days,
    Delays,
    KeepDays,
    LogLevel,
    Millis,
    Networks,
    Tables,
    Wait,
    share,
    whole,
)


def parser_of(kind: Any) -> Parser:
    (parser,) = kind.__metadata__
    assert isinstance(parser, Parser)
    return parser


PARSERS: list[Parser] = [
    *(
        parser_of(kind)
        for kind in (Bool, Days, Delays, KeepDays, LogLevel, Millis, Networks, Tables, Wait)
    ),
    share(),
    whole(1),
    whole(0, 65535),
]

WAITS = st.timedeltas(timedelta(0), timedelta(hours=24))


@given(st.lists(WAITS, min_size=1))
def test_delays_written_and_read_are_the_same(delays: list[timedelta]) -> None:
    parser = parser_of(Delays)
    assert parser.read(parser.write(tuple(delays))) == tuple(delays)


@given(WAITS)
def test_a_duration_written_and_read_is_the_same(wait: timedelta) -> None:
    parser = parser_of(Wait)
    assert parser.read(parser.write(wait)) == wait


@given(
    st.dictionaries(
        st.from_regex(r"[a-z.]{1,9}\*?", fullmatch=True) | st.just("*"),
        st.from_regex(r"[A-Za-z_][A-Za-z0-9]{0,9}", fullmatch=True),
        min_size=1,
    )
)
def test_tables_written_and_read_are_the_same(tables: dict[str, str]) -> None:
    parser = parser_of(Tables)
    assert parser.read(parser.write(tuple(tables.items()))) == tuple(tables.items())


@given(st.sampled_from(PARSERS), st.text(min_size=1) | st.from_regex(r"-?[0-9.e,/:]+"))
def test_any_text_is_read_or_refused_in_words(parser: Parser, text: str) -> None:
    try:
        parser.read(text)
    except Expected as wrong:
        line = wrong.line("X", raw=text, secret=False)
        assert line.startswith("expected X to be ")
        assert line.isprintable()
