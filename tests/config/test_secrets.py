"""Secrets are never shown, and are read again when their file changes."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from formrelay.config import Settings
from formrelay.config.secrets import FilePath, FileSecret
from formrelay.core.errors import ConfigError

SECRETS = [
    ("broker", "redis_url", "REDIS_URL", "redis://:hunter2@h"),
    ("broker", "rabbitmq_url", "RABBITMQ_URL", "amqp://u:hunter2@h"),
    ("broker", "state_url", "STATE_URL", "rediss://:hunter2@h"),
    ("api", "token", "API_TOKEN", "hunter2"),
    ("clickhouse", "url", "CLICKHOUSE_URL", "http://u:hunter2@h"),
    ("clickhouse", "password", "CLICKHOUSE_PASSWORD", "hunter2 "),
]
LONG_AGO = 1_000_000_000


def load(**environ: str) -> Settings:
    return Settings.load({"BROKER": "embedded"} | environ, env_file=None)


def fault(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**environ)
    return str(caught.value)


def write(path: Path, text: str, at: int = LONG_AGO) -> None:
    """Replace a file atomically, with a modification time long ago."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    os.utime(fresh, (at, at))
    fresh.replace(path)


@pytest.mark.parametrize(("section", "field", "variable", "text"), SECRETS)
def test_a_secret_is_given_in_a_variable_or_in_a_file(
    tmp_path: Path, section: str, field: str, variable: str, text: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(text + "\n")
    for settings in (load(**{variable: text}), load(**{f"{variable}_FILE": str(path)})):
        assert getattr(settings, section).secret(field) == text
        for shown in (repr(settings), str(settings), settings.model_dump_json()):
            assert "hunter2" not in shown


@pytest.mark.parametrize(("section", "field", "variable", "text"), SECRETS)
def test_a_secret_that_is_set_twice_is_an_error_that_says_to_drop_one(
    tmp_path: Path, section: str, field: str, variable: str, text: str
) -> None:
    (tmp_path / "secret").write_text(text)
    said = fault(**{variable: text, f"{variable}_FILE": str(tmp_path / "secret")})
    assert said.startswith(f"expected one of {variable} and {variable}_FILE to be set, got both")
    assert said.endswith("drop one")
    assert "hunter2" not in said


def test_a_secret_that_is_not_set_is_none() -> None:
    assert load().api.secret("token") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "to name a readable file, got '{path}' (No such file or directory)"),
        (b"", "the content of API_TOKEN_FILE ('{path}') to not be empty"),
        (b"\n", "the content of API_TOKEN_FILE ('{path}') to not be empty"),
        (b"hunter2\xff", "the content of API_TOKEN_FILE ('{path}') to be UTF-8 text"),
        (b"hunter2\nX: 1", "to be one line of printable text, got a value that is not shown"),
        (b"hunter2" * 10_000, "to hold at most 65536 bytes"),
    ],
)
def test_a_file_without_a_valid_secret_is_an_error_with_variable_and_path(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "t"
    if content is not None:
        path.write_bytes(content)
    line = fault(API_TOKEN_FILE=str(path))
    assert "API_TOKEN_FILE" in line
    assert str(path) in line
    assert said.format(path=path) in line
    assert "hunter2" not in line


def test_a_folder_or_a_pipe_is_refused_as_a_secret_file(tmp_path: Path) -> None:
    assert "API_TOKEN_FILE to name a regular file" in fault(API_TOKEN_FILE=str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "API_TOKEN_FILE to name a regular file" in fault(API_TOKEN_FILE=str(tmp_path / "pipe"))
    assert "API_TOKEN_FILE to name a readable file" in fault(API_TOKEN_FILE="a\0b")


def test_the_content_of_a_file_is_validated_like_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("http://:hunter2@h")
    said = fault(REDIS_URL_FILE=str(path))
    assert f"expected the content of REDIS_URL_FILE ('{path}') to be a URL that starts with" in said
    assert "got the unknown scheme 'http'" in said
    assert "hunter2" not in said


def test_a_rotated_secret_is_used_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write(path, "one")
    api = load(API_TOKEN_FILE=str(path)).api
    write(path, "two")  # same size, same time, another inode
    assert api.secret("token") == "two"
    os.utime(path, (LONG_AGO, LONG_AGO))
    path.write_text("three")  # written in place
    assert api.secret("token") == "three"


def test_a_swap_of_symbolic_links_as_in_kubernetes_is_noticed(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "token", name)
    data = tmp_path / "..data"
    data.symlink_to("v1")
    (tmp_path / "token").symlink_to("..data/token")
    api = load(API_TOKEN_FILE=str(tmp_path / "token")).api
    assert api.secret("token") == "v1"
    (tmp_path / "fresh").symlink_to("v2")
    (tmp_path / "fresh").replace(data)
    assert api.secret("token") == "v2"


def test_an_unchanged_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    write(path, "one")
    api = load(API_TOKEN_FILE=str(path)).api
    monkeypatch.setattr("formrelay.config.secrets.read_content", None)
    assert api.secret("token") == "one"


def test_a_second_write_with_the_same_modification_time_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    stamp = os.stat(path).st_mtime_ns
    api = load(API_TOKEN_FILE=str(path)).api
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))  # same size, same inode, same time
    assert api.secret("token") == "two"


class StoppedClock:
    """A clock far ahead of the files' modification times."""

    def time(self) -> float:
        return LONG_AGO + 3.0

    def monotonic(self) -> float:
        return 0.0


def test_a_young_file_is_read_at_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "old", "x", at=LONG_AGO)
    write(tmp_path / "young", "x", at=LONG_AGO + 2)
    made = {
        name: FileSecret(FilePath("X_FILE", tmp_path / name), str, StoppedClock())
        for name in ("old", "young")
    }
    reads: list[Path] = []

    def content(path: Path) -> tuple[tuple[int, int, int], bytes]:
        reads.append(path)
        return (LONG_AGO * 10**9, 1, 0), b"x"

    monkeypatch.setattr("formrelay.config.secrets.read_content", content)
    for secret in made.values():
        secret.get_secret_value()
    assert [path.name for path in reads] == ["young"]


@pytest.mark.parametrize("spoil", ["vanish", "empty", "wrong", "folder"])
def test_a_missing_or_invalid_file_keeps_the_last_valid_value_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    path = tmp_path / "token"
    write(path, "good")
    api = load(API_TOKEN_FILE=str(path)).api
    if spoil == "empty":
        write(path, "")
    elif spoil == "wrong":
        write(path, "hunter2 hunter2")
    else:
        path.unlink()
        if spoil == "folder":
            path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert [api.secret("token") for _ in range(3)] == ["good"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "API_TOKEN_FILE" in record.getMessage()
    assert "good" not in record.getMessage().replace("last valid value", "")
    assert "hunter2" not in record.getMessage()
    if spoil == "folder":
        path.rmdir()
    write(path, "better", at=int(time.time()) - 60)
    assert api.secret("token") == "better"
