"""W3C Trace Context: well-formed values are read, everything else counts as missing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.trace_context import TraceContext, parse, read

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{ID}-{SPAN}-01"


def test_a_valid_pair_is_read_and_written_again() -> None:
    found = parse(VALID, "vendor=1,other=2")
    assert found == TraceContext(ID, SPAN, 1, "vendor=1,other=2")
    assert found.as_options() == {"traceparent": VALID, "tracestate": "vendor=1,other=2"}
    assert parse(VALID).as_options() == {"traceparent": VALID}


@pytest.mark.parametrize(
    "traceparent",
    [
        *(None, 5, b"x", "", "00-1-2-03", [VALID], {"traceparent": VALID}),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"ff-{ID}-{SPAN}-01"),
        *(VALID.upper(), f" {VALID}", f"{VALID}\n", f"{VALID}-more", f"{VALID}\r\nX: 1"),
        *(f"00-{ID[:-1]}-{SPAN}-01", f"00-{ID}-{SPAN}-1", f"01-{ID}-{SPAN}-01-{'x' * 300}"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_malformed_traceparent_is_missing(traceparent: Any) -> None:
    assert parse(traceparent, "vendor=1") is None


def test_a_later_version_is_read_as_version_00() -> None:
    assert parse(f"cc-{ID}-{SPAN}-ff-what the future holds") == TraceContext(ID, SPAN, 1)


@pytest.mark.parametrize("state", [5, "", "x" * 513, "a=1\r\nX: 1", "ü=1", ["a=1"]], ids=repr)
def test_a_malformed_tracestate_is_left_out(state: Any) -> None:
    assert parse(VALID, state) == TraceContext(ID, SPAN, 1)


@pytest.mark.parametrize("values", [None, 5, "text", [VALID], {}, {"traceparent": None}], ids=repr)
def test_values_of_any_type_are_read_without_an_error(values: Any) -> None:
    assert read(values) is None


@given(st.one_of(st.text(), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?")))
def test_what_is_read_can_always_be_sent_as_a_header(text: str) -> None:
    found = parse(text, text)
    assert found is None or (len(found.traceparent) == 55 and found.traceparent.isascii())
