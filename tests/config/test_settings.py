"""Settings.load: defaults, names and values."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

import formrelay.config
from formrelay.config import Settings
from formrelay.config.settings import sections, variables
from tests.config.loading import REDIS, load


def at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("broker.kind", "redis"),
        ("broker.rabbitmq_url", None),
        ("broker.state_url", None),
        ("broker.namespace", "dramatiq"),
        ("broker.heartbeat_timeout", timedelta(seconds=15)),
        ("broker.max_crash_deliveries", 3),
        ("broker.rabbitmq_queue_type", "quorum"),
        ("broker.max_message_bytes", 1_048_576),
        ("broker.dead_letter_retention", timedelta(days=30)),
        ("broker.connect_timeout", timedelta(seconds=5)),
        ("embedded.data_dir", Path(".formrelay")),
        ("embedded.port", None),
        ("api.url", None),
        ("api.token", None),
        ("api.connect_timeout", timedelta(seconds=5)),
        ("api.timeout", timedelta(seconds=30)),
        ("clickhouse.url", None),
        ("clickhouse.database", "default"),
        ("clickhouse.user", "default"),
        ("clickhouse.password", None),
        ("clickhouse.timeout", timedelta(seconds=30)),
        ("clickhouse.connect_timeout", timedelta(seconds=5)),
        ("events.queue", "events"),
        ("events.batch_size", 10_000),
        ("events.batch_wait", timedelta(milliseconds=500)),
        ("submissions.queue", "submissions"),
        ("partials.queue", "partials"),
        ("webhooks.queue", "webhooks"),
        ("webhooks.max_retries", 6),
        ("webhooks.allowed_private_cidrs", ()),
        ("webhooks.allow_http", False),
        ("webhooks.timeout", timedelta(seconds=20)),
        ("emails.queue", "emails"),
        ("emails.max_retries", 8),
        ("emails.worker_concurrency", None),
        ("sheets.queue", "sheets"),
        ("worker_concurrency", 8),
        ("worker_processes", 1),
        ("monitoring.enabled", False),
        ("monitoring.interval", timedelta(seconds=30)),
        ("logging.level", "INFO"),
        ("logging.effective_level", "INFO"),
    ],
)
def test_a_variable_that_is_not_set_has_its_documented_default(path: str, value: object) -> None:
    assert at(load(), path) == value


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("BROKER", "Redis", "broker.kind", "redis"),
        ("BROKER_NAMESPACE", "{ns}:a", "broker.namespace", "{ns}:a"),
        ("HEARTBEAT_TIMEOUT", "2.5", "broker.heartbeat_timeout", timedelta(seconds=2.5)),
        ("MAX_CRASH_DELIVERIES", "5", "broker.max_crash_deliveries", 5),
        ("RABBITMQ_QUEUE_TYPE", "classic", "broker.rabbitmq_queue_type", "classic"),
        ("MAX_MESSAGE_BYTES", "10", "broker.max_message_bytes", 10),
        ("DEAD_LETTER_RETENTION_DAYS", "7", "broker.dead_letter_retention", timedelta(days=7)),
        (
            "BROKER_CONNECT_TIMEOUT_SECONDS",
            "0.5",
            "broker.connect_timeout",
            timedelta(seconds=0.5),
        ),
        ("EMBEDDED_DATA_DIR", "data", "embedded.data_dir", Path("data")),
        ("EMBEDDED_PORT", "6400", "embedded.port", 6400),
        ("API_URL", " https://api.example ", "api.url", "https://api.example"),
        ("API_TIMEOUT_SECONDS", "9", "api.timeout", timedelta(seconds=9)),
        ("API_CONNECT_TIMEOUT_SECONDS", "9", "api.connect_timeout", timedelta(seconds=9)),
        ("CLICKHOUSE_DATABASE", "forms", "clickhouse.database", "forms"),
        ("CLICKHOUSE_USER", "me", "clickhouse.user", "me"),
        ("CLICKHOUSE_TIMEOUT_SECONDS", "9", "clickhouse.timeout", timedelta(seconds=9)),
        (
            "CLICKHOUSE_CONNECT_TIMEOUT_SECONDS",
            "9",
            "clickhouse.connect_timeout",
            timedelta(seconds=9),
        ),
        ("WEBHOOK_QUEUE", "webhook_tasks", "webhooks.queue", "webhook_tasks"),
        ("SHEETS_WORKER_CONCURRENCY", "2", "sheets.worker_concurrency", 2),
        ("EVENT_BATCH_SIZE", "5", "events.batch_size", 5),
        ("EVENT_BATCH_WAIT_MS", "0", "events.batch_wait", timedelta(0)),
        ("EMAIL_RETRY_JITTER", "0", "emails.retry_jitter", 0.0),
        (
            "WEBHOOK_ALLOWED_PRIVATE_CIDRS",
            "10.0.0.0/8, fd00::/8,127.0.0.1",
            "webhooks.allowed_private_cidrs",
            (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1/32")),
        ),
        ("WEBHOOK_TIMEOUT_SECONDS", "9", "webhooks.timeout", timedelta(seconds=9)),
        *(
            ("WEBHOOK_ALLOW_HTTP", text, "webhooks.allow_http", value)
            for value, texts in ((True, "true 1 yes TRUE on"), (False, "false 0 no Off"))
            for text in texts.split()
        ),
        ("WORKER_CONCURRENCY", "16", "worker_concurrency", 16),
        ("WORKER_PROCESSES", "4", "worker_processes", 4),
        ("WORKER_MONITORING_ENABLED", "true", "monitoring.enabled", True),
        ("WORKER_MONITORING_INTERVAL", "1500", "monitoring.interval", timedelta(seconds=1.5)),
        ("LOG_LEVEL", "warn", "logging.level", "WARNING"),
        ("LOG_LEVEL", "trace", "logging.level", "DEBUG"),
        ("LOG_LEVEL", "Error", "logging.level", "ERROR"),
    ],
)
def test_each_variable_sets_its_field(variable: str, text: str, path: str, value: object) -> None:
    assert at(load(**{variable: text}), path) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("STATE_URL", "memory://"),
        ("STATE_URL", "rediss://:p%40ss@h:1/2"),
        ("CLICKHOUSE_URL", "clickhouses://u:p@h:9440/db"),
        ("CLICKHOUSE_URL", "https://h:8443"),
        ("CLICKHOUSE_URL", "chdb:///var/lib/x"),
        ("REDIS_URL", "redis://[::1]:6379/0"),
        ("API_URL", "http://django_app:8000/base"),
    ],
)
def test_urls_that_the_drivers_accept_are_accepted(variable: str, text: str) -> None:
    load(**{variable: text})


def test_every_variable_may_be_empty() -> None:
    names = list(variables())
    blank = dict.fromkeys(names, " ") | {f"{name}_FILE": "" for name in names}
    assert Settings.load(blank | REDIS, env_file=None) == load()


def test_the_embedded_broker_has_its_own_clickhouse(tmp_path: Path) -> None:
    environ = {"BROKER": "embedded", "EMBEDDED_DATA_DIR": str(tmp_path)}
    settings = Settings.load(environ, env_file=None)
    assert settings.clickhouse.secret("url") == f"chdb://{tmp_path}/clickhouse"
    other = Settings.load(environ | {"CLICKHOUSE_URL": "http://h"}, env_file=None)
    assert other.clickhouse.secret("url") == "http://h"
    assert load().clickhouse.secret("url") is None


def test_a_relative_embedded_folder_is_not_mistaken_for_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"BROKER": "embedded"}, env_file=None)
    assert settings.clickhouse.secret("url") == f"chdb://{tmp_path}/.formrelay/clickhouse"


@pytest.mark.parametrize(
    ("patterns", "level"),
    [
        ("workers:*", "DEBUG"),
        ("workers", "DEBUG"),
        ("workers:email", "DEBUG"),
        ("*", "DEBUG"),
        ("api:*,workers:*", "DEBUG"),
        ("api:* work*", "DEBUG"),
        ("*,-workers:email", "DEBUG"),
        ("*,-workers:*", "ERROR"),
        ("-workers:*", "ERROR"),
        ("api:*", "ERROR"),
        ("myworkers:*", "ERROR"),
        ("workers2:*", "ERROR"),
        ("True", "ERROR"),
        ("1", "ERROR"),
        ("", "ERROR"),
    ],
)
def test_debug_patterns_that_match_workers_set_the_level_to_debug(
    patterns: str, level: str
) -> None:
    assert load(DEBUG=patterns, LOG_LEVEL="error").logging.effective_level == level


def test_settings_are_immutable() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.worker_concurrency = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.api.url = "http://h"  # type: ignore[misc]


def test_without_an_argument_the_environment_of_this_process_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BROKER", "embedded")
    monkeypatch.setenv("WORKER_PROCESSES", "7")
    assert Settings.load(env_file=None).worker_processes == 7
    # An argument replaces it.
    assert Settings.load(REDIS, env_file=None).worker_processes == 1


def test_a_section_created_in_code_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_QUEUE", "elsewhere")
    monkeypatch.setenv("queue", "elsewhere")
    section = formrelay.config.WebhookSettings(timeout=timedelta(seconds=1))
    assert (section.queue, section.timeout) == ("webhooks", timedelta(seconds=1))


def test_importing_the_package_reads_no_environment() -> None:
    program = Path(__file__).with_name("imports_only.py")
    subprocess.run([sys.executable, str(program)], check=True)


def test_the_public_names_are_sorted_and_complete() -> None:
    names = formrelay.config.__all__
    assert names == sorted(names)
    kinds = {kind.__name__ for kind in sections().values()}
    assert kinds <= set(names)
    assert all(hasattr(formrelay.config, name) for name in names)


def test_no_variable_sets_two_fields() -> None:
    fields = [name for kind in sections().values() for name in kind.model_fields]
    assert len(variables()) == len(fields) - len(sections()) + 1  # without the sections themselves
