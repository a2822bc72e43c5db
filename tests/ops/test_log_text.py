"""On a terminal, a log line is text that a person reads at a glance."""

from __future__ import annotations

import re
from typing import Any

import pytest

from formrelay.config import LoggingSettings
from formrelay.core.json_lines import as_json
from formrelay.ops import logs
from formrelay.ops.log_text import as_text

LINE: dict[str, Any] = {
    "time": "2026-01-31T09:30:00.125Z",
    "level": "WARNING",
    "worker": "host:17",
    "logger": "formrelay.workers.attempts",
    "msg": "attempt",
    "actor": "save_submission",
    "queue": "submissions",
    "jobId": "54c1a970-3817-4705-843f-c2bf5a2b9acb",
    "attempt": 2,
    "duration": 41.3,
    "outcome": "retry",
    "errorMessage": "the API answered 503",
}


def plain(fields: dict[str, Any]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", as_text(fields).decode())


def test_an_attempt_says_what_happened_first() -> None:
    assert plain(LINE) == (
        "09:30:00.125 WARNING  retry save_submission, attempt 2 41.3 ms  "
        'errorMessage="the API answered 503" queue=submissions '
        "jobId=54c1a970-3817-4705-843f-c2bf5a2b9acb\n"
    )


def test_another_line_is_its_message_and_its_fields() -> None:
    line = {**LINE, "msg": "resuming", "sink": "api", "count": 3}
    del line["outcome"]
    assert "resuming  errorMessage=" in plain(line)
    assert plain(line).endswith("sink=api count=3\n")


def test_a_line_in_a_job_shows_the_actor() -> None:
    line = {"time": "", "level": "INFO", "msg": "inside", "actor": "work", "jobId": "id-1"}
    assert plain(line).endswith("inside  jobId=id-1 actor=work\n")


def test_levels_have_colors_on_a_terminal_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_is_terminal", lambda: False)
    in_a_file = logs.encoder(LoggingSettings(format="text"))(LINE)  # type: ignore[call-arg]
    assert b"\x1b" not in in_a_file
    monkeypatch.setattr(logs, "_is_terminal", lambda: True)
    text = logs.encoder(LoggingSettings(format="text"))(LINE)  # type: ignore[call-arg]
    assert b"\x1b[33mWARNING" in text
    plain = logs.encoder(LoggingSettings(format="text", no_color="1"))(LINE)  # type: ignore[call-arg]
    assert b"\x1b" not in plain


@pytest.mark.parametrize("field", ["msg", "actor", "errorMessage", "queue", "other"])
def test_a_field_controls_no_terminal(field: str) -> None:
    text = plain({**LINE, field: "\x1b[2Jgone\nnext \u202e"})
    assert "\x1b" not in text
    assert text.count("\n") == 1
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("setting", "is_terminal", "expected"),
    [
        ("auto", True, "text"),
        ("auto", False, "json"),
        ("text", False, "text"),
        ("json", True, "json"),
    ],
)
def test_lines_are_text_on_a_terminal_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: str, is_terminal: bool, expected: str
) -> None:
    monkeypatch.setattr("os.isatty", lambda descriptor: is_terminal)
    settings = LoggingSettings(format=setting)  # type: ignore[call-arg]
    line = logs.encoder(settings)(LINE)
    assert line.startswith(b"{") == (expected == "json")


def test_lines_in_a_log_file_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda descriptor: True)
    monkeypatch.setattr("sys.argv", ["dramatiq", "formrelay.worker", "--log-file=x.log"])
    assert logs.encoder(LoggingSettings()) is as_json
