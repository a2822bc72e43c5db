"""Errors for the codes of the server and the exceptions of the drivers."""

from __future__ import annotations

import logging
import struct

import pytest

from formrelay.core.errors import (
    ConfigError,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.sinks.clickhouse.errors import (
    MEANINGS,
    TableUnready,
    by_code,
    filter_driver_logs,
    sink_error,
)

CODES: list[tuple[int, type[SinkError], str]] = [
    *((code, SinkTransient, f"code {code}") for code in (159, 160, 209, 210, 319)),
    *((code, SinkBusy, f"code {code}") for code in (252, 241, 242, 202, 243)),
    *((code, SinkUnready, "CLICKHOUSE_PASSWORD") for code in (192, 193, 194, 516)),
    *((code, TableUnready, "formrelay migrate") for code in (60, 16, 47)),
    (81, SinkUnready, "formrelay migrate"),  # the whole database is missing
    *((code, SinkPermanent, f"code {code}") for code in (53, 6, 27, 117, 26, 70, 349, 131)),
    (497, SinkUnready, "grants"),
    (9999, SinkTransient, "unexpected"),
]


@pytest.mark.parametrize(("code", "error", "says"), CODES)
def test_each_code_is_one_error(code: int, error: type[SinkError], says: str) -> None:
    found = by_code(code, user="relay")
    assert type(found) is error
    assert found.code == code
    assert says in str(found)


def test_a_refused_user_is_an_error_that_names_the_variables() -> None:
    assert str(by_code(516, user="x")) == (
        "expected ClickHouse to accept user 'x', it refused (code 516): "
        "check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD"
    )


def test_no_code_is_in_two_tables() -> None:
    tables = [names for names, _, _ in MEANINGS]
    assert len({code for table in tables for code in table}) == sum(map(len, tables))


def test_too_many_parts_delays_the_retry() -> None:
    assert by_code(252, user="").retry_after is not None


DRIVERS_OWN: list[tuple[str, bool, type[SinkError]]] = [
    ("NetworkError", False, SinkUnavailable),
    ("SocketTimeoutError", False, SinkUnavailable),
    ("UnexpectedPacketFromServerError", True, SinkUnavailable),
    ("UnexpectedPacketFromServerError", False, SinkTransient),
    ("TypeMismatchError", False, SinkPermanent),
    ("CannotParseUuidError", False, SinkPermanent),
]


@pytest.mark.parametrize(("name", "connecting", "expected"), DRIVERS_OWN)
def test_errors_of_the_driver_are_distinguished_from_errors_of_the_server(
    name: str, connecting: bool, expected: type[SinkError]
) -> None:
    drivers = pytest.importorskip("clickhouse_driver.errors")
    found = sink_error(getattr(drivers, name)("s3cr3t"), user="u", connecting=connecting)
    assert type(found) is expected
    assert "s3cr3t" not in str(found)


FOREIGN: list[tuple[BaseException, bool, type[BaseException]]] = [
    (ConnectionRefusedError(), True, SinkUnavailable),
    (EOFError(), True, SinkUnavailable),
    (UnicodeError("s3cr3t"), True, SinkUnavailable),
    (TimeoutError(), False, SinkTransient),
    (ConnectionResetError(), False, SinkTransient),
    (EOFError(), False, SinkTransient),
    (ValueError("s3cr3t"), False, SinkPermanent),
    (struct.error("s3cr3t"), False, SinkPermanent),
    (OverflowError("s3cr3t"), False, SinkPermanent),
    (RuntimeError("s3cr3t"), False, SinkTransient),
    (ConfigError("x"), True, ConfigError),
    (SinkPermanent("x"), False, SinkPermanent),
]


@pytest.mark.parametrize(("error", "connecting", "expected"), FOREIGN)
def test_an_exception_without_a_code_is_classified_by_type_and_phase(
    error: BaseException, connecting: bool, expected: type[BaseException]
) -> None:
    found = sink_error(error, user="u", connecting=connecting)
    assert type(found) is expected
    assert "s3cr3t" not in str(found)


def test_drivers_log_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    filter_driver_logs()
    filter_driver_logs()
    logger = logging.getLogger("clickhouse_connect.driver.transform")
    assert len(logger.filters) == 1
    try:
        raise ValueError("s3cr3t")
    except ValueError:
        logger.exception("Error serializing")
    assert "Error serializing" in caplog.text
    assert "s3cr3t" not in caplog.text
