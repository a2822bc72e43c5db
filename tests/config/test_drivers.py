"""Drivers are imported with settings that suit a worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("clickhouse_driver")

#: Prints the number of dates in the driver's table, then what it makes of a date.
PROGRAM = """
import datetime
from formrelay.sinks.clickhouse import connect

second = datetime.timedelta(seconds=1)
connect(
    "clickhouse://127.0.0.1:1", database="none", user="none", password=lambda: None,
    timeout=second, connect_timeout=second,
)
from clickhouse_driver.columns.datecolumn import DateColumn, _date_lut

print(len(_date_lut))
print(DateColumn.date_lut_reverse[datetime.date(2026, 1, 2)], DateColumn.date_lut[20455])
"""


@pytest.mark.process
def test_the_table_of_dates_of_clickhouse_driver_is_made_when_needed() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    size, date = result.stdout.splitlines()
    assert int(size) < 10
    assert date == "20455 2026-01-02"
