"""redacted: values are removed from a text in every encoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.redaction import redacted

VALUES = st.recursive(
    st.text(min_size=4, max_size=100).filter(lambda text: "[…]" not in text),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def leaves(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return [leaf for one in inner for leaf in leaves(one)]


@given(VALUES, st.booleans())
def test_values_echoed_as_json_are_removed(value: Any, is_ascii: bool) -> None:
    echo = json.dumps({"you sent": value}, ensure_ascii=is_ascii)
    found = redacted(echo, [value], most=100_000)
    for leaf in leaves(value):
        written = json.dumps(leaf, ensure_ascii=is_ascii)[1:-1]
        if written in echo and written not in '{"you sent": […], }':
            assert written not in found


@given(st.text(min_size=40, max_size=200, alphabet="abcdefgh"), st.integers(10, 100))
def test_a_value_cut_off_at_the_end_is_removed(value: str, before: int) -> None:
    text = "." * before + value
    found = redacted(text, [value], most=before + 36)
    assert value[:32] not in found
    assert len(found) <= before + 36


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("all is well", ["secret"], "all is well"),
        ("got secret", ["secret"], "got […]"),
        ("no token sk_live_1234", ["Bearer sk_live_1234", "sk_live_1234"], "no token […]"),
        (
            json.dumps({"note": "Please call\nme on 030 1234567. Many thanks, and good bye!"}),
            ["Please call\nme on 030 1234567. Many thanks, and good bye!"],
            '{"note": "[…]"}',
        ),
        ("got 4711.25 for 12", [{"amount": 4711.25, "n": 12}], "got […] for 12"),
        ("true, null", [True, None], "true, null"),
        ("ok", ["ok"], "ok"),
        ("", ["secret"], ""),
        ('{"a": "d\\u00e9j\\u00e0 vu"}', ["déjà vu"], '{"a": "[…]"}'),
    ],
)
def test_values_are_replaced_by_an_ellipsis(text: str, values: list[Any], expected: str) -> None:
    assert redacted(text, values, most=2048) == expected


def test_no_part_of_a_long_value_is_left() -> None:
    answer = "the quick brown fox jumps over " * 200
    for before in range(0, 80, 7):
        found = redacted("x" * before + json.dumps(answer), [answer], most=2048)
        assert "fox" not in found
        assert "quick" not in found


def test_the_text_is_cut_to_the_maximum_length() -> None:
    assert redacted("x" * 5000, ["secret"], most=2048) == "x" * 2048
