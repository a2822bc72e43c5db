"""The main process of ``dramatiq`` writes its lines as the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from formrelay.config import settings
from formrelay.ops.worker.dramatiq_command import logging_settings


def test_the_main_process_reads_the_settings_of_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "_current", None)
    for name, value in {
        "FORMRELAY_LOG_FORMAT": "text",
        "NO_COLOR": "1",
        "LOG_LEVEL": "warning",
        "WEBHOOK_MAX_RETRIES": "wrong",  # which the workers refuse
    }.items():
        monkeypatch.setenv(name, value)
    found = logging_settings()
    assert (found.format, found.no_color, found.effective_level) == ("text", "1", "WARNING")
    assert settings._current is None


def test_a_file_of_settings_that_cannot_be_read_does_not_stop_the_main_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").mkdir()
    assert logging_settings().format == "auto"
