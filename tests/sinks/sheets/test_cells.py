"""Values as typed cells."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.errors import InvalidJob
from formrelay.sinks.sheets.cells import make_cell, make_row, time_zone
from tests.support.google.schema import check

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def kind(value: Any) -> tuple[str, Any]:
    ((name, found),) = make_cell(value)["userEnteredValue"].items()
    return name, found


@given(JSON)
def test_no_value_becomes_a_formula(value: Any) -> None:
    cell = make_cell(value)
    check(cell, "CellData")
    assert set(cell.get("userEnteredValue", {})) <= {"stringValue", "numberValue", "boolValue"}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "'x", "007", "1,5", "TRUE", "1/2"])
def test_a_text_stays_a_text(text: str) -> None:
    assert kind(text) == ("stringValue", text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, ("boolValue", True)),
        (7, ("numberValue", 7)),
        (1.5, ("numberValue", 1.5)),
        (2**53 + 1, ("stringValue", "9007199254740993")),
        (float("inf"), ("stringValue", "inf")),
        (["a", "b", 3, True, None], ("stringValue", "a, b, 3, TRUE")),
        ({"a": [1]}, ("stringValue", '{"a":[1]}')),
        ([{"a": 1}], ("stringValue", '[{"a":1}]')),
        ("x\ud800", ("stringValue", "x?")),
        ("", ("stringValue", "")),
    ],
)
def test_a_value_has_its_type(value: Any, expected: tuple[str, Any]) -> None:
    assert kind(value) == expected


def test_nothing_is_an_empty_cell() -> None:
    assert make_cell(None) == {}


@pytest.mark.parametrize(
    ("value", "serial", "type"),
    [
        ("1900-01-01", 2, "DATE"),
        ("2026-01-31", 46_053, "DATE"),
        (date(2026, 1, 31), 46_053, "DATE"),
        ("2026-01-31T12:00:00Z", 46_053.5, "DATE_TIME"),
        ("2026-01-31 06:00", 46_053.25, "DATE_TIME"),
        ("2026-01-31T12:00:00.000+12:00", 46_053.0, "DATE_TIME"),
        (datetime(2026, 1, 31, 18, tzinfo=UTC), 46_053.75, "DATE_TIME"),
    ],
)
def test_a_date_is_a_serial_number_with_a_format(value: Any, serial: float, type: str) -> None:
    cell = make_cell(value)
    assert cell["userEnteredValue"] == {"numberValue": serial}
    assert cell["userEnteredFormat"]["numberFormat"]["type"] == type
    check(cell, "CellData")


def test_a_time_is_shown_in_the_time_zone_of_the_spreadsheet() -> None:
    cell = make_cell("2026-01-31T12:00:00Z", ZoneInfo("Europe/Berlin"))
    assert cell["userEnteredValue"]["numberValue"] == pytest.approx(46_053 + 13 / 24)
    assert time_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
    assert time_zone("GMT-03:00").utcoffset(None) == timedelta(hours=-3)
    assert time_zone("GMT-03:00") == timezone(timedelta(hours=-3))
    assert time_zone("Nowhere/There") is UTC
    assert time_zone("../etc/passwd") is UTC


@pytest.mark.parametrize(
    "text", ["2026-02-30", "1066-10-14", "2026-1-1", "20260131", "2026-01-31T25:00", "2026-W05-1"]
)
def test_other_texts_are_no_dates(text: str) -> None:
    assert kind(text) == ("stringValue", text)


@given(st.datetimes(datetime(1900, 1, 1), datetime(9998, 1, 1)))
def test_a_serial_number_is_the_time_since_1899(moment: datetime) -> None:
    serial = make_cell(moment)["userEnteredValue"]["numberValue"]
    back = datetime(1899, 12, 30) + timedelta(days=serial)
    assert abs(back - moment) < timedelta(milliseconds=1)


def test_a_cell_has_at_most_50_000_characters() -> None:
    assert kind("x" * 50_000)
    with pytest.raises(InvalidJob, match=r"at most 50000 characters.*got 50001") as caught:
        make_cell("x" * 50_001)
    assert "xxx" not in str(caught.value)
    with pytest.raises(InvalidJob, match="got 50002"):
        make_cell("😀" * 25_001)
    with pytest.raises(InvalidJob, match=r"^value 2: expected at most"):
        make_row(["a", "x" * 60_000])
