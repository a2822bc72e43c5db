"""The table of current values, and .env.example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formrelay.config import Settings
from formrelay.config.report import Row, env_example, rows
from formrelay.config.settings import Reading, read_settings, variables
from formrelay.config.urls import mask, url_check

ROOT = Path(__file__).resolve().parents[2]


def table(reading: Reading) -> dict[str, Row]:
    return {row.name: row for row in rows(reading)}


def test_every_row_names_the_source_of_its_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKER_PROCESSES=2\nEMAIL_QUEUE=file\n")
    (tmp_path / "token").write_text("hunter2")
    environ = {
        "BROKER": "embedded",
        "EMAIL_QUEUE": "mails",
        "API_TOKEN_FILE": str(tmp_path / "token"),
    }
    found = table(read_settings(environ, tmp_path / ".env"))
    assert {name: (found[name].value, found[name].source) for name in (
        "BROKER", "EMAIL_QUEUE", "WORKER_PROCESSES", "API_TOKEN", "WEBHOOK_RETRY_DELAYS", "API_URL",
        "HEARTBEAT_TIMEOUT", "CLICKHOUSE_PASSWORD",
    )} == {
        "BROKER": ("embedded", "environment"),
        "EMAIL_QUEUE": ("mails", "environment"),
        "WORKER_PROCESSES": ("2", ".env"),
        "API_TOKEN": ("***", "file"),
        "WEBHOOK_RETRY_DELAYS": ("0,30,120,600,3600,21600,86400", "default"),
        "API_URL": ("(not set)", "default"),
        "HEARTBEAT_TIMEOUT": ("15", "default"),
        "CLICKHOUSE_PASSWORD": ("(not set)", "default"),
    }  # fmt: skip
    assert "expected" not in found["BROKER"].description


def test_no_row_shows_a_secret() -> None:
    environ = {
        "BROKER": "redis",
        "REDIS_URL": "redis://me:hunter2@host:6379/3?password=hunter2",
        "RABBITMQ_URL": "amqp://hunter2:hunter2@host/vhost",
        "STATE_URL": "unix://:hunter2@/run/redis.sock",
        "CLICKHOUSE_URL": "http://hunter2@h",
        "CLICKHOUSE_PASSWORD": "http://hunter2",
        "API_TOKEN": "http://hunter2",
        "ALERT_SLACK_URL": "https://hooks.example/services/hunter2",
        "ALERT_WEBHOOK_URL": "https://me:hunter2@a.example?hunter2",
        "ALERT_WEBHOOK_SECRET": "hunter2",
    }
    found = rows(read_settings(environ, env_file=None))
    assert "hunter2" not in repr(found)
    assert [row.name for row in found] == list(variables())


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://me:pw@host:6379/3", "redis://***@host:6379/3"),
        ("redis://:pw@[::1]:6379/0?password=pw", "redis://***@[::1]:6379/0?***"),
        ("redis://u:p@w@host/0", "redis://***@host/0"),
        ("amqps://host/vhost", "amqps://host/vhost"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?***"),
        ("chdb:///data/clickhouse", "chdb:///data/clickhouse"),
        ("memory://", "memory://"),
        ("pw", "***"),
        ("redis://[pw", "***"),
    ],
)
def test_a_masked_url_shows_hosts_and_path_but_no_secret(url: str, masked: str) -> None:
    assert mask(url) == masked


def test_the_committed_env_example_is_current() -> None:
    committed = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert committed == env_example(), "run scripts/generate-env-example"


def test_the_env_example_names_every_variable_once_and_describes_it() -> None:
    named = re.findall(r"^#([A-Z_]+)=", env_example(), re.MULTILINE)
    assert sorted(named) == sorted(variables())
    for variable in variables().values():
        assert variable.description.endswith("."), variable.name


def test_the_env_example_uncommented_is_the_default(tmp_path: Path) -> None:
    text = re.sub(r"^#([A-Z_]+=)", r"\1", env_example(), flags=re.MULTILINE)
    (tmp_path / ".env").write_text(text)
    environ = {"REDIS_URL": "redis://h"}
    uncommented = Settings.load(environ, tmp_path / ".env").model_dump()
    assert uncommented == Settings.load(environ, env_file=None).model_dump()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:hunter2@a:1,b:2/v", "amqp://***@a:1,b:2/v"),
        ("amqp://u:hunter2@a;amqps://u:hunter2@b:5671/v", "amqp://***@a;amqps://***@b:5671/v"),
        ("redis+sentinel://:hunter2@a:26379,b/s/0", "redis+sentinel://***@a:26379,b/s/0"),
        (
            "clickhouse://u:hunter2@a:9000,[::1]:9001,b/db",
            "clickhouse://***@a:9000,[::1]:9001,b/db",
        ),
        ("https://u:hunter2@a:8443,b/db", "https://***@a:8443,b/db"),
    ],
)
def test_a_url_with_several_hosts_is_accepted_and_shown_without_its_password(
    url: str, shown: str
) -> None:
    schemes = ("amqp", "amqps", "redis+sentinel", "clickhouse", "https")
    check = url_check(*schemes, advice="", many_hosts=True)
    assert check(url) == url
    assert mask(url) == shown
