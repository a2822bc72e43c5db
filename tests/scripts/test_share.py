"""When several processes share a run, each test runs in exactly one of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.share import VARIABLE

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = Path(__file__).with_name("samples")


def begin(suite: Path, claims: Path | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, f"--rootdir={suite}", str(suite)],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(claims or "")},
        stdout=subprocess.PIPE,
        text=True,
    )


def passed(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the process; returns the tests that ran, which all passed."""
    printed, _ = process.communicate(timeout=60)
    assert process.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), printed
    return [line.split()[0] for line in printed.splitlines() if " PASSED" in line]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Six files in two folders, whose tests use fixtures of package and module scope."""
    suite = tmp_path / "suite"
    for folder in ("one", "two"):
        (suite / folder).mkdir(parents=True)
        shutil.copy(SAMPLES / "folder_conftest.py", suite / folder / "conftest.py")
        for name in "abc":
            shutil.copy(SAMPLES / "file.py", suite / folder / f"test_{folder}_{name}.py")
    shutil.copy(SAMPLES / "suite_conftest.py", suite / "conftest.py")
    return suite


@pytest.mark.slow
def test_each_file_runs_in_exactly_one_process(suite: Path, tmp_path: Path) -> None:
    everything = passed(begin(suite, None))
    assert len(everything) == 12
    claims = tmp_path / "claims"
    claims.mkdir()
    shares = [passed(process) for process in [begin(suite, claims) for _ in range(3)]]
    assert sorted(test for share in shares for test in share) == sorted(everything)
    files = [{test.split("::")[0] for test in share} for share in shares]
    assert sum(map(len, files)) == 6


@pytest.mark.slow
def test_files_claimed_by_other_processes_are_skipped(suite: Path, tmp_path: Path) -> None:
    claims = tmp_path / "claims"
    claims.mkdir()
    for name in ("one/test_one_b", "two/test_two_a", "two/test_two_c"):
        (claims / str(suite / f"{name}.py").replace("/", "+")).touch()
    ran = passed(begin(suite, claims))
    assert [test.split("::")[0] for test in ran[::2]] == [
        *("one/test_one_a.py", "one/test_one_c.py", "two/test_two_b.py")
    ]
    assert passed(begin(suite, claims)) == []
