"""Errors of Settings.load: a readable line each, all at once, without secrets."""

from __future__ import annotations

import pytest

from tests.config.loading import REDIS, line, lines

NUMBER = "expected {} to be a whole number of at least 1, got {!r}"
WRONG: list[tuple[str, str, str]] = [
    *(
        ("WORKER_CONCURRENCY", text, NUMBER.format("WORKER_CONCURRENCY", text))
        for text in ("many", "0", "-1", "1.5", "1_0", "١", "nan", "inf", "9" * 60)
    ),
    ("EVENT_MAX_RETRIES", "-1", "a whole number of at least 0, got '-1'"),
    ("EMBEDDED_PORT", "65536", "a whole number from 1 to 65535, got '65536'"),
    *(
        ("API_TIMEOUT_SECONDS", text, f"a number of seconds above 0, got '{text}'")
        for text in ("soon", "0", "-1", "nan", "inf", "1e400", "0.0000001")
    ),
    ("API_TIMEOUT_SECONDS", "9" * 18, "a number of seconds of at most 3153600000, got '9"),
    ("HEARTBEAT_TIMEOUT", "0.5", "a number of seconds of at least 1, got '0.5'"),
    ("EMAIL_RETRY_CAP_SECONDS", "86401", "a number of seconds from 0 to 86400, got '86401'"),
    ("WORKER_MONITORING_INTERVAL", "30", "a number of milliseconds of at least 100, got '30'"),
    ("DEAD_LETTER_RETENTION_DAYS", "-1", "a number of days above 0, got '-1'"),
    *(
        ("EVENT_RETRY_JITTER", text, f"to be a number from 0 to 1, got '{text}'")
        for text in ("1.1", "-0.1", "nan")
    ),
    *(
        ("WEBHOOK_RETRY_DELAYS", text, "to be seconds from 0 to 86400, comma-separated, got")
        for text in ("0,,3", "0,x", "0,-1", "0,86401", "0;30", "nan", ",")
    ),
    ("WEBHOOK_ALLOW_HTTP", "maybe", "to be 'true' or 'false', got 'maybe'"),
    ("WEBHOOK_ALLOWED_PRIVATE_CIDRS", "x", "to be networks like 10.0.0.0/8"),
    ("WEBHOOK_ALLOWED_PRIVATE_CIDRS", "10.0.0.1/8", "prefix are 0, got '10.0.0.1/8'"),
    *(
        ("EVENT_QUEUE", text, f"to be a queue name (letters, digits, '.', '_' and '-'; the first"
         f" a letter or '_'; not ending in .DQ or .XQ), got '{text}'")
        for text in ("1st", "a b", "a.DQ", "a.XQ", "a:b", "ä")
    ),
    ("BROKER_NAMESPACE", "a b", "got 'a b'"),
    ("RABBITMQ_QUEUE_TYPE", "lazy", "to be 'quorum' or 'classic', got 'lazy'"),
    ("LOG_LEVEL", "loud", "to be 'CRITICAL', 'ERROR', 'WARNING', 'INFO' or 'DEBUG', got 'loud'"),
    ("CLICKHOUSE_DATABASE", "a; DROP", "a database name"),
    ("EMBEDDED_DATA_DIR", "what?", "a path without"),
    *(
        ("EVENT_TABLES", text, "to be event types, which may end in '*', and their tables (")
        for text in ("payments", "a=", "=t", "a=b,", "a=1t", "a=b c", "a=`x`", "a*b=t", "**=t",
                     "a=b;c=d", "a=b.c", "a=" + "x" * 101)
    ),
    *(
        ("EVENT_TABLES", f"a=b,c={name}", f"got the table '{name}': formrelay uses that name")
        for name in ("webhook_deliveries", "formrelay_migrations", "x_once", "events_daily",
                     "x_daily_states", "x_daily_feed")
    ),
    ("EVENT_TABLES", "a=b, a=c", "to name each event type once, got 'a' twice"),
    *(
        (name, text, f"to be a number of days from 1 to 15000, got '{text}'")
        for name in ("EVENT_KEEP_DAYS", "WEBHOOK_KEEP_ATTEMPTS_DAYS")
        for text in ("0", "0.5", "-3", "15001")
    ),
    ("CLICKHOUSE_CLUSTER", "a`b", "a cluster's name"),
    ("API_URL", "http://a,b", "a URL with a host name"),
    ("API_URL", "ftp://host", "starts with http:// or https://, got the unknown scheme 'ftp'"),
    ("API_URL", "host:80", "got no scheme"),
    ("API_URL", "http://", "a URL with a host name"),
    ("API_URL", "https://u:hunter2@h", "without user, password, query and fragment"),
    ("API_URL", "https://h/?key=hunter2", "without user, password, query and fragment"),
    ("API_URL", "https://h/a?", "without user, password, query and fragment"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "text", "said"), WRONG)
def test_an_invalid_value_is_one_readable_line(variable: str, text: str, said: str) -> None:
    only = line(**{variable: text})
    assert only.startswith(f"expected {variable} to ")
    assert said in only
    assert "hunter2" not in only


def test_a_value_is_quoted_on_one_line_and_cut() -> None:
    assert len(line(LOG_LEVEL="a\nb" + "x" * 10_000)) < 300


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("REDIS_URL", "http://u:hunter2@h", "rediss+sentinel://, got the unknown scheme 'http'"),
        ("REDIS_URL", "redis+sentinel://:hunter2@h,:1/s", "a URL with a host name"),
        ("RABBITMQ_URL", "amqp://:hunter2@h;http://:hunter2@h", "got the unknown scheme 'http'"),
        ("REDIS_URL", "hunter2", "got no scheme"),
        ("REDIS_URL", "hunter2 x://h", "got no scheme"),
        ("REDIS_URL", "redis://:hunter2@${HOST}:1", "a URL with a host name"),
        ("REDIS_URL", "redis://:hunter2@:1", "a URL with a host name"),
        ("REDIS_URL", "redis://:hunter2/@h:1", "percent-encode special characters"),
        ("REDIS_URL", "redis://h:hunter2", "percent-encode special characters"),
        ("REDIS_URL", "redis://[hunter2", "percent-encode special characters"),
        ("RABBITMQ_URL", "redis://:hunter2@h", "amqp:// or amqps://, got the unknown scheme"),
        ("STATE_URL", "amqp://:hunter2@h", "rediss+sentinel:// or memory://"),
        ("CLICKHOUSE_URL", "tcp://:hunter2@h", "http://, https:// or chdb://, got the unknown"),
        ("CLICKHOUSE_URL", "clickhouse://u:hunter2@a:9000,,b/db", "a URL with a host name"),
        (
            "CLICKHOUSE_URL",
            "http://u:hunter2@a,b:99999/db",
            "that cannot be parsed: percent-",
        ),
        ("CLICKHOUSE_URL", "https://u:hunter2@[::1,b", "a URL that cannot be parsed"),
        ("API_TOKEN", "hunter2 x", "printable ASCII without spaces, got a value that is not"),
        ("API_TOKEN", "hunter2\r\nX-Evil: 1", "printable text, got a value that is not shown"),
        ("CLICKHOUSE_PASSWORD", "hunter2\udcff", "printable text, got a value that is not"),
    ],
)
def test_an_invalid_secret_is_an_error_that_does_not_quote_it(
    variable: str, text: str, said: str
) -> None:
    (only,) = lines(**{"BROKER": "redis"} | REDIS | {variable: text})
    assert only.startswith(f"expected {variable} to ")
    assert said in only
    assert "hunter2" not in only


def test_all_errors_are_reported_at_once() -> None:
    found = lines(
        BROKER="kafka",
        WORKER_CONCURRENCY="many",
        HEARTBEAT_TIMEOUT="x",
        API_TOKEN_FILE="/nowhere/token",
        SHEETS_RETRY_BACKOFF="schedule",
        WEBHOOK_QUEUE="1",
    )
    assert [one.split()[1] for one in found] == [
        "BROKER",
        "HEARTBEAT_TIMEOUT",
        "API_TOKEN_FILE",
        "WEBHOOK_QUEUE",
        "WORKER_CONCURRENCY",
        "SHEETS_RETRY_DELAYS",
    ]


def test_a_missing_broker_does_not_hide_other_errors() -> None:
    assert len(lines(HEARTBEAT_TIMEOUT="x", WORKER_PROCESSES="0")) == 3
