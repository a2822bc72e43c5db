"""A run in parts: each test in one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.part import part_asked_for

def pytest_configure(config):
    if part := part_asked_for():
        config.pluginmanager.register(part)
"""


def run_part(folder: Path, part: str) -> tuple[int, set[str]]:
    """The exit status and the tests that ran."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--rootdir={folder}", str(folder)],
        cwd=folder,
        env={**os.environ, "FORMRELAY_TEST_PART": part},
        capture_output=True,
        text=True,
    )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, {line.split()[0] for line in lines if " PASSED" in line}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in "abcde":
        (tmp_path / f"test_{name}.py").write_text("def test_x(): pass\ndef test_y(): pass\n")
    return tmp_path


def test_each_test_runs_in_one_part_and_a_file_is_not_torn(suite: Path) -> None:
    status, everything = run_part(suite, "")
    assert (status, len(everything)) == (0, 10)
    found = [run_part(suite, f"{number}/3")[1] for number in (1, 2, 3)]
    assert set.union(*found) == everything
    assert sum(map(len, found)) == len(everything)
    assert [len(part) for part in found] == [4, 4, 2]


@pytest.mark.parametrize("part", ["3/2", "0/2", "1", "a/b"])
def test_what_is_no_part_is_an_error(suite: Path, part: str) -> None:
    assert run_part(suite, part) == (pytest.ExitCode.USAGE_ERROR, set())
