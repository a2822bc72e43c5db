"""The quick tier is found by itself: tests that need no server and start no process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).with_name("quick_samples.py")


@pytest.fixture(scope="module")
def printed() -> str:
    """What a quick run of the samples prints."""
    argv = [sys.executable, "-m", "pytest", "--quick", "-v", "-p", "no:cacheprovider"]
    root = SAMPLES.parent.parent.parent
    done = subprocess.run([*argv, str(SAMPLES)], cwd=root, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    return done.stdout


def test_a_test_that_starts_a_process_or_needs_a_server_is_left_out(printed: str) -> None:
    others = SAMPLES.read_text().count("\ndef test_") - 2
    assert f"1 failed, 1 passed, {others} deselected" in printed
    assert "::test_quick PASSED" in printed


def test_a_process_that_was_not_foreseen_fails_its_test(printed: str) -> None:
    assert "::test_in_a_way_that_is_not_found FAILED" in printed
    assert "test_in_a_way_that_is_not_found starts a process in a quick run" in printed
