"""The .env file, which the environment overrides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from formrelay.config import Settings, settings
from formrelay.core.errors import ConfigError


def load(path: Path, text: str | bytes, **environ: str) -> Settings:
    env = path / ".env"
    env.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Settings.load(environ, env_file=env)


def fault(path: Path, text: str | bytes, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, text, **environ)
    return str(caught.value)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "BROKER=embedded\nWORKER_PROCESSES=2\nWORKER_CONCURRENCY=3\n",
        WORKER_PROCESSES="5", WORKER_CONCURRENCY="",
    )  # fmt: skip
    assert settings.broker.kind == "embedded"
    assert settings.worker_processes == 5
    assert settings.worker_concurrency == 3, "an empty variable counts as not set"


def test_the_file_is_read_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BROKER=embedded\n")
    monkeypatch.chdir(tmp_path)
    assert Settings.load({}).broker.kind == "embedded"
    with pytest.raises(ConfigError):
        Settings.load({}, env_file=None)


def test_a_missing_file_is_not_an_error(tmp_path: Path) -> None:
    assert Settings.load({"BROKER": "embedded"}, env_file=tmp_path / ".env").worker_processes == 1


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffBROKER=embedded\r\n\r\n# note\r\nexport CLICKHOUSE_PASSWORD='a$b ${HOME} #c'\r\n",
        'CLICKHOUSE_PASSWORD="a$b ${HOME} #c" # note\nBROKER = embedded\nOTHER\n',
    ],
)
def test_quotes_and_comments_are_read_and_nothing_is_interpolated(
    tmp_path: Path, text: str
) -> None:
    settings = load(tmp_path, text)
    assert settings.clickhouse.secret("password") == "a$b ${HOME} #c"


def test_the_error_for_an_invalid_line_has_its_number(tmp_path: Path) -> None:
    said = fault(tmp_path, "BROKER=embedded\nAPI_TOKEN='hunter2\n")
    assert said.startswith("expected NAME=value in line 2 of ")
    assert "hunter2" not in said


def test_a_file_that_is_not_utf_8_is_an_error_with_the_line_number(tmp_path: Path) -> None:
    said = fault(tmp_path, b"BROKER=embedded\nEMAIL_QUEUE=caf\xe9\n")
    assert f"expected '{tmp_path / '.env'}' to be UTF-8 text, got other bytes in line 2" in said


def test_a_folder_or_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").write_text("BROKER=embedded")
    (tmp_path / "closed").chmod(0)
    # Root may read any file.
    names = ["folder", "loop"] + (["closed"] if os.geteuid() else [])
    for name in names:
        with pytest.raises(ConfigError, match="to be a readable file of NAME=value lines"):
            Settings.load({"BROKER": "embedded"}, env_file=tmp_path / name)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("WEBHOOK_RETRIES", "WEBHOOK_MAX_RETRIES"),
        ("WEBHOOK_TIMEOUT", "WEBHOOK_TIMEOUT_SECONDS"),
        ("WEBHOOK_RETRY_DELAY", "WEBHOOK_RETRY_DELAYS"),
        ("EVENT_CONCURRENCY", "EVENT_WORKER_CONCURRENCY"),
        ("EVENT_BATCH_WAIT", "EVENT_BATCH_WAIT_MS"),
        ("EMAIL_MAX_RETRY", "EMAIL_MAX_RETRIES"),
        ("WEBHOK_QUEUE", "WEBHOOK_QUEUE"),
        ("REDIS_URI", "REDIS_URL"),
        ("redis_url", "REDIS_URL"),
        ("API_TOKEN_FILES", "API_TOKEN_FILE"),
        ("WORKER_CONCURENCY", "WORKER_CONCURRENCY"),
        ("WORKERS_CONCURRENCY", "WORKER_CONCURRENCY"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("CLICKHOUSE_USERNAME", "CLICKHOUSE_USER"),
    ],
)
def test_a_variable_of_a_similar_name_is_warned_of_once_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, slip: str, meant: str
) -> None:
    settings._warn.cache_clear()
    for _ in range(2):
        loaded = load(tmp_path, f"BROKER=embedded\n{slip}=hunter2\n")
        assert loaded == load(tmp_path, "BROKER=embedded\n")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("formrelay.config", "WARNING")
    assert record.getMessage() == (
        f"{slip} in the .env file is no variable of formrelay and is ignored: "
        f"write {meant} if it is meant for formrelay"
    )
    # Other programs use the environment too.
    assert load(tmp_path, "", BROKER="embedded", **{slip: "x"})
    assert len(caplog.records) == 1


def test_a_missing_broker_is_an_error_after_the_warning_of_its_misspelled_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings._warn.cache_clear()
    said = fault(tmp_path, "REDIS_URI=redis://hunter2@h\n")
    assert said.startswith("expected BROKER, REDIS_URL or RABBITMQ_URL to be set, got none")
    assert "write REDIS_URL if" in caplog.text
    assert "hunter2" not in caplog.text + said


@pytest.mark.parametrize(
    "name",
    [
        "EMAIL_BACKEND",
        "EMAIL_HOST",
        "EMAIL_HOST_PASSWORD",
        "EMAIL_HOST_USER",
        "EMAIL_PORT",
        "EMAIL_USE_TLS",
        "EMAIL_USE_SSL",
        "EMAIL_TIMEOUT",
        "EMAIL_SUBJECT_PREFIX",
        "EMAIL_SSL_CERTFILE",
        "EMAIL_FILE_PATH",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_DB",
        "REDIS_PASSWORD",
        "RABBITMQ_DEFAULT_USER",
        "RABBITMQ_DEFAULT_PASS",
        "RABBITMQ_HOST",
        "RABBITMQ_ERLANG_COOKIE",
        "CLICKHOUSE_HOST",
        "CLICKHOUSE_PORT",
        "API_KEY",
        "API_VERSION",
        "API_BASE_URL",
        "WEBHOOK_SECRET",
        "LOG_FORMAT",
        "LOG_FILE",
        "DATABASE_URL",
        "BROKER_URL",
        "CELERY_BROKER_URL",
        "DJANGO_DEBUG",
        "STRIPE_WEBHOOK_SECRET",
        "NEXT_PUBLIC_API_URL",
        "POSTGRES_PASSWORD",
        "PATH",
    ],
)
def test_variables_of_other_programs_in_a_shared_file_are_ignored_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    settings._warn.cache_clear()
    assert load(tmp_path, f"BROKER=embedded\n{name}=x\n").broker.kind == "embedded"
    assert caplog.records == []
