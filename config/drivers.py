"""Settings of drivers that are read from the environment when the driver is imported."""

from __future__ import annotations

import os

#: Name (the spelling is the driver's), and the period of the table that the driver makes when it is
#: imported; it adds other dates when needed.
_DATE_TABLE = ("CLICKHOUSE_DRIVER_LASY_DATE_LUT", "1970-01-01:1970-01-02")


def prepare_clickhouse_driver() -> None:
    """Let clickhouse-driver begin with a table of two dates, unless the variable is set.

    By default, the table has all dates from 1900 to 2299: 24 MB a process.
    """
    os.environ.setdefault(*_DATE_TABLE)
