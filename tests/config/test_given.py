"""Settings given by the program (Django's FORMRELAY) override the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from formrelay.config import Settings
from formrelay.config.report import rows
from formrelay.config.settings import read_settings
from formrelay.core.errors import ConfigError, NotConfigured

ENV = {"REDIS_URL": "redis://h", "API_URL": "http://env", "WORKER_CONCURRENCY": "3"}


def load(given: Mapping[str, object], env_file: Path | None = None, **more: str) -> Settings:
    return Settings.load(ENV | more, env_file=env_file, given=given)


def lines(given: Mapping[str, object], **more: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(given, **more)
    return str(caught.value).split("\n")


def test_a_given_value_wins_over_environment_and_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_URL=http://file\nWORKER_PROCESSES=4\n")
    settings = load({"API_URL": "http://given"}, tmp_path / ".env")
    assert settings.api.url == "http://given"
    assert (settings.worker_concurrency, settings.worker_processes) == (3, 4)
    reading = read_settings(ENV, tmp_path / ".env", {"API_URL": "http://given"})
    sources = {row.name: row.source for row in rows(reading)}
    assert [sources["API_URL"], sources["WORKER_CONCURRENCY"]] == ["FORMRELAY", "environment"]


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_an_empty_given_value_counts_as_not_set(nothing: str | None) -> None:
    assert load({"API_URL": nothing}).api.url == "http://env"


def test_a_given_secret_or_secret_file_wins_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("in-a-file")
    path = tmp_path / "token"
    plain = load({"API_TOKEN": "given"}, API_TOKEN_FILE=str(path))
    assert plain.api.secret("token") == "given"
    assert load({"API_TOKEN_FILE": path}, API_TOKEN="env").api.secret("token") == "in-a-file"
    (both,) = lines({"API_TOKEN": "given", "API_TOKEN_FILE": path})
    assert "FORMRELAY['API_TOKEN'] and FORMRELAY['API_TOKEN_FILE']" in both
    (both,) = lines({}, API_TOKEN="env", API_TOKEN_FILE=str(path))
    assert "to be set, got both (environment): drop one" in both


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("API_TOKN", "API_TOKEN"), ("api_token", "API_TOKEN"), ("SMTP_HOST_NAME", None), (5, None)],
)
def test_the_error_for_an_unknown_key_suggests_the_nearest(name: str, nearest: str | None) -> None:
    (line,) = lines({name: "x"})
    assert f"got {str(name)!r}: the nearest is " in line
    assert nearest is None or line.endswith(nearest)


def test_an_invalid_given_value_is_named_by_its_key_and_a_secret_is_not_quoted() -> None:
    (line,) = lines({"WORKER_CONCURRENCY": 1.5})
    assert line.startswith("expected FORMRELAY['WORKER_CONCURRENCY'] to be a whole number")
    (line,) = lines({"REDIS_URL": "http://:hush@h"})
    assert line.startswith("expected FORMRELAY['REDIS_URL'] to")
    assert "hush" not in line


def test_a_missing_broker_raises_another_error_than_an_invalid_value() -> None:
    for environ in ({}, {"BROKER": "rabbitmq"}):
        with pytest.raises(NotConfigured):
            Settings.load(environ, env_file=None)
    with pytest.raises(ConfigError) as caught:
        Settings.load({"WORKER_CONCURRENCY": "many"}, env_file=None)
    assert not isinstance(caught.value, NotConfigured)
