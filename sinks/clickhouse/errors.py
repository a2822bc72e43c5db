"""Maps the errors of the ClickHouse drivers to errors of formrelay.

Codes are from ClickHouse's ``src/Common/ErrorCodes.cpp``. Messages contain the code and its name,
not the server's text, which may quote a row that could not be parsed (27, 117).
"""

from __future__ import annotations

import logging
import struct
from datetime import timedelta

import urllib3.exceptions as http_errors

from ...core.errors import (
    FormrelayError,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)


class TableUnready(SinkUnready):
    """A table is missing or was changed; other tables may work."""


#: The user is unknown, or the password is wrong (or being rotated).
REFUSED_USER = {
    192: "UNKNOWN_USER",
    193: "WRONG_PASSWORD",
    194: "REQUIRED_PASSWORD",
    195: "IP_ADDRESS_NOT_ALLOWED",
    516: "AUTHENTICATION_FAILED",
}
#: The user is known but may not do this.
NOT_ALLOWED = {164: "READONLY", 291: "DATABASE_ACCESS_DENIED", 497: "ACCESS_DENIED"}
#: The schema is not as expected. Not an error of the rows, which must not be dropped
#: (a missing table has cost users of other tools a million events).
NO_SCHEMA = {
    8: "THERE_IS_NO_COLUMN",
    10: "NOT_FOUND_COLUMN_IN_BLOCK",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    47: "UNKNOWN_IDENTIFIER",
    60: "UNKNOWN_TABLE",
    218: "TABLE_IS_DROPPED",
}
NO_DATABASE, NO_TABLE = 81, 60
_NO_DATABASE = {NO_DATABASE: "UNKNOWN_DATABASE"}
_NOT_OURS = (
    "expected formrelay's tables in ClickHouse, got {name} (code {code}): run formrelay migrate"
)
#: The server accepts no rows at present and did not accept these.
BUSY = {
    173: "CANNOT_ALLOCATE_MEMORY",
    201: "QUOTA_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    225: "NO_ZOOKEEPER",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    252: "TOO_MANY_PARTS",
    285: "TOO_FEW_LIVE_REPLICAS",
    289: "REPLICA_IS_NOT_IN_QUORUM",
    364: "RECEIVED_ERROR_TOO_MANY_REQUESTS",
    999: "KEEPER_EXCEPTION",
}
#: The server is slow or the connection broke: it is unknown whether it has inserted the rows.
BROKEN_OFF = {
    3: "UNEXPECTED_END_OF_FILE",
    32: "ATTEMPT_TO_READ_AFTER_EOF",
    40: "CHECKSUM_DOESNT_MATCH",
    101: "UNEXPECTED_PACKET_FROM_CLIENT",
    102: "UNEXPECTED_PACKET_FROM_SERVER",
    159: "TIMEOUT_EXCEEDED",
    160: "TOO_SLOW",
    198: "DNS_ERROR",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    236: "ABORTED",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    319: "UNKNOWN_STATUS_OF_INSERT",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
}
#: The server will never accept these rows.
BAD_ROWS = {
    6: "CANNOT_PARSE_TEXT",
    9: "SIZES_OF_COLUMNS_DOESNT_MATCH",
    20: "NUMBER_OF_COLUMNS_DOESNT_MATCH",
    25: "CANNOT_PARSE_ESCAPE_SEQUENCE",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    128: "TOO_LARGE_ARRAY_SIZE",
    131: "TOO_LARGE_STRING_SIZE",
    190: "SIZES_OF_ARRAYS_DONT_MATCH",
    248: "INVALID_PARTITION_VALUE",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    376: "CANNOT_PARSE_UUID",
    407: "DECIMAL_OVERFLOW",
    441: "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING",
    469: "VIOLATED_CONSTRAINT",
}
#: The groups of codes: code by name, class of the error, and its message.
MEANINGS: tuple[tuple[dict[int, str], type[SinkError], str], ...] = (
    (
        REFUSED_USER,
        SinkUnready,
        "expected ClickHouse to accept user '{user}', it refused (code {code}): "
        "check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD",
    ),
    (
        NOT_ALLOWED,
        SinkUnready,
        "expected ClickHouse to let user '{user}' do this, it refused ({name}, code {code}): "
        "check the user's grants",
    ),
    (_NO_DATABASE, SinkUnready, _NOT_OURS),
    (NO_SCHEMA, TableUnready, _NOT_OURS),
    (BAD_ROWS, SinkPermanent, "ClickHouse refused the rows ({name}, code {code})"),
    (BUSY, SinkBusy, "ClickHouse is busy ({name}, code {code})"),
    (BROKEN_OFF, SinkTransient, "ClickHouse failed ({name}, code {code})"),
)
# Too many parts: merges lag behind, and a retry within a second makes it worse.
_SLOW_DOWN = {252: timedelta(seconds=10), 241: timedelta(seconds=2), 202: timedelta(seconds=2)}


def by_code(code: int, *, user: str) -> SinkError:
    """Convert an error code of the server."""
    for names, kind, text in MEANINGS:
        if code in names:
            message = text.format(name=names[code], code=code, user=user)
            return kind(message, code=code, retry_after=_SLOW_DOWN.get(code))
    return SinkTransient(f"ClickHouse failed (unexpected, code {code})", code=code)


#: Raised by a driver that cannot convert a value to its column's type.
_UNWRITABLE = (ValueError, TypeError, AttributeError, OverflowError, IndexError, struct.error)
_NOT_CONNECTED = (
    http_errors.NewConnectionError,
    http_errors.ConnectTimeoutError,
    http_errors.SSLError,
    http_errors.ProxyError,
)
_WHILE_CONNECTING = ("NetworkError", "SocketTimeoutError")


def sink_error(error: BaseException, *, user: str, connecting: bool = False) -> FormrelayError:
    """Convert an error of a driver. Raise the result ``from None``.

    Args:
        error: the driver's error.
        user: name of the user, for the message about a refused user.
        connecting: whether the error occurred before anything was sent.
    """
    if isinstance(error, FormrelayError):
        return error
    code = getattr(error, "code", None)
    # clickhouse-driver gives its own errors codes too (a broken connection, an invalid greeting).
    # While connecting, only codes of the server count.
    own = _is_drivers_own(error)
    # The driver raises these two only while connecting, which a query may do again.
    connecting = connecting or (own and type(error).__name__ in _WHILE_CONNECTING)
    if isinstance(code, int) and code > 0 and not (connecting and own):
        return by_code(code, user=user)
    name = type(error).__name__
    if connecting or any(isinstance(link, _NOT_CONNECTED) for link in _chain(error)):
        return SinkUnavailable(f"expected to connect to ClickHouse, could not ({name})")
    if isinstance(error, TimeoutError):
        return SinkTransient("expected ClickHouse to answer in time, it did not")
    if isinstance(error, OSError | EOFError):
        return SinkTransient(f"the connection to ClickHouse was lost ({name})")
    if name == "ProgrammingError":  # clickhouse-connect: a column that the table lacks
        return TableUnready(
            "expected ClickHouse's table to have our columns, it does not: run formrelay migrate"
        )
    if name == "DataError" or isinstance(error, _UNWRITABLE):
        return SinkPermanent(
            f"expected values of the columns' types, the driver could not write one ({name})"
        )
    return SinkTransient(f"ClickHouse failed without a code ({name})")


class WithoutTraceback(logging.Filter):
    """Removes the traceback from the drivers' log records.

    It ends with the exception's text, which may quote a payload value.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True


def filter_driver_logs() -> None:
    """Keep payload values out of the drivers' log records. Idempotent."""
    for name in ("clickhouse_driver.connection", *_CONNECT_LOGGERS):
        logger = logging.getLogger(name)
        if not any(isinstance(one, WithoutTraceback) for one in logger.filters):
            logger.addFilter(WithoutTraceback())


_CONNECT_LOGGERS = (
    "clickhouse_connect.driver.transform",
    "clickhouse_connect.driver.insert",
    "clickhouse_connect.driver.httpclient",
    "clickhouse_connect.driver._backend.http_sync",
    "clickhouse_connect.driver._backend.chdb_backend",
)


def _is_drivers_own(error: BaseException) -> bool:
    kind = type(error)
    return kind.__module__.startswith("clickhouse_driver.") and kind.__name__ != "ServerException"


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes; urllib3 has the cause of a retry in ``reason``."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        reason = getattr(link, "reason", None)
        link = reason if isinstance(reason, BaseException) else link.__cause__
    return links
