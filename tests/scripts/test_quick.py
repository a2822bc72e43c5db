"""The quick tier detects which tests need a server or start a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).with_name("quick_samples.py")


@pytest.fixture(scope="module")
def printed() -> str:
    """Output of a quick run of the samples."""
    argv = [sys.executable, "-m", "pytest", "--quick", "-v", "-p", "no:cacheprovider"]
    root = SAMPLES.parent.parent.parent
    done = subprocess.run([*argv, str(SAMPLES)], cwd=root, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    return done.stdout


def test_quick_deselects_tests_that_start_a_process_or_need_a_server(printed: str) -> None:
    others = SAMPLES.read_text().count("\ndef test_") - 2
    assert f"1 failed, 1 passed, {others} deselected" in printed
    assert "::test_quick PASSED" in printed


def test_quick_fails_a_test_that_starts_an_undetected_process(printed: str) -> None:
    assert "::test_by_an_undetected_way FAILED" in printed
    assert "test_by_an_undetected_way starts a process in a quick run" in printed
