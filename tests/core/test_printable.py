"""Printed text contains no control characters, and printed ids can be read back."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.printable import ascii_json, printable, printable_json, read_id, shown_id

ANYTHING = st.text(st.characters()) | st.binary().map(
    lambda raw: raw.decode(errors="surrogateescape")
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("né ☃ [bold] 👩‍👩‍👧 c:\\dir", "né ☃ [bold] 👩‍👩‍👧 c:\\dir"),
        ("a\x1b[2J\r\nb\tc", r"a\x1b[2J\r\nb\tc"),
        ("\x9b31m\x7f\x85", r"\x9b31m\x7f\x85"),
        ("\u202egnp.exe\u2066\u2069\u200f\u061c", r"\u202egnp.exe\u2066\u2069\u200f\u061c"),
        ("\u2028\u2029\ufeff\u200b", r"\u2028\u2029\ufeff\u200b"),
        ("\udcff\U000e0041", r"\udcff\U000e0041"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANYTHING)
def test_no_control_or_format_character_is_left(text: str) -> None:
    shown = printable(text)
    kinds = {unicodedata.category(one) for one in shown if one not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    assert printable(text, keep="\n").replace("\n", r"\n") == shown


@given(ANYTHING)
def test_printed_ids_are_read_back_unchanged(id: str) -> None:
    assert read_id(shown_id(id)) == id


@pytest.mark.parametrize("text", ["a\\b", "\\", "\\x1", "\\u12", "\\Uffffffff", "\\q\\"])
def test_a_backslash_that_starts_no_escape_is_literal(text: str) -> None:
    assert read_id(text) == text


@given(st.dictionaries(ANYTHING, ANYTHING))
def test_escaped_json_has_the_same_value(value: dict[str, str]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    for shown in (printable_json(text), ascii_json(text)):
        assert json.loads(shown) == json.loads(json.dumps(value))
        assert printable(shown, keep="\n") == shown
