"""Ranges in A1 notation."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.errors import InvalidJob
from formrelay.sinks.sheets import Range, parse_range
from formrelay.sinks.sheets.ranges import column_index, column_letters, quoted
from tests.support.google.a1 import area, split

VALID = {
    "Answers": Range("Answers"),
    "Answers!A1:C": Range("Answers", 0, None, 0, 3),
    "Answers!A:C": Range("Answers", None, None, 0, 3),
    "Answers!B3": Range("Answers", 2, 3, 1, 2),
    "Answers!$B$3:$D$9": Range("Answers", 2, 9, 1, 4),
    "Answers!D9:B3": Range("Answers", 2, 9, 1, 4),
    "Answers!2:2": Range("Answers", 1, 2),
    "'It''s new!'!A1:B2": Range("It's new!", 0, 2, 0, 2),
    "'A1'": Range("A1"),
    "A1:B2": Range("", 0, 2, 0, 2),
    "B3": Range("", 2, 3, 1, 2),
    "A:A": Range("", None, None, 0, 1),
    "Umfrage 2026": Range("Umfrage 2026"),
    "回答!a1:b2": Range("回答", 0, 2, 0, 2),
    "Q1": Range("", 0, 1, 16, 17),
    "ZZZ1": Range("", 0, 1, 18_277, 18_278),
    "Answers!A5:B": Range("Answers", 4, None, 0, 2),
}
INVALID = [
    *("", "!", "Answers!", "!A1", "Answers!A0", "Answers!AAAA1", "'Answers", "'Answers'x"),
    *(
        "Answers!A1:B2:C3",
        "Answers!A1:",
        "Answers!:B2",
        "Answers!R1C1",
        "Answers!99999999",
        "x" * 300,
    ),
]


@pytest.mark.parametrize("text", VALID)
def test_a_range_is_parsed(text: str) -> None:
    assert parse_range(text) == VALID[text]


@pytest.mark.parametrize("text", INVALID)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidJob, match="expected range to be a range in A1 notation"):
        parse_range(text)


@given(st.integers(0, 18_277))
def test_letters_of_a_column_are_read_back(index: int) -> None:
    assert column_index(column_letters(index)) == index


@given(st.text(min_size=1, max_size=50))
def test_a_quoted_tab_is_read_back(title: str) -> None:
    assert parse_range(f"{quoted(title)}!A1:B2".strip()).tab == title
    assert split(f"{quoted(title)}!A1") == (title, "A1")


@given(st.text(max_size=20))
def test_no_text_fails_in_another_way(text: str) -> None:
    with contextlib.suppress(InvalidJob):
        parse_range(text)


@pytest.mark.parametrize("text", [text for text in VALID if "!" in text and "D9:B3" not in text])
def test_the_stand_in_reads_a_range_in_the_same_way(text: str) -> None:
    found = parse_range(text)
    tab, cells = split(text)
    assert tab == found.tab
    assert area(cells) == (found.start_row, found.end_row, found.start_column, found.end_column)
