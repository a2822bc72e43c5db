"""RanCheck: a run of the whole suite fails if no test of some kind of server passed."""

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
COMPLETE = (SAMPLES / "kinds.py").read_text()
INCOMPLETE = COMPLETE.replace("mark.clickhouse", "mark.skip")


def run_suite(
    folder: Path, tests: str, *arguments: str, claims: Path | None = None
) -> tuple[int, str]:
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    shutil.copy(SAMPLES / "kinds_conftest.py", folder / "tests" / "conftest.py")
    (folder / "tests" / "test_it.py").write_text(tests)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(claims or "")}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_whole_run_with_a_passed_test_of_each_kind_passes(tmp_path: Path) -> None:
    assert run_suite(tmp_path, COMPLETE)[0] == 0


def test_whole_run_without_a_kind_fails_and_names_it(tmp_path: Path) -> None:
    status, printed = run_suite(tmp_path, INCOMPLETE)
    assert status == 1
    assert "expected at least one test marked clickhouse to pass, got none" in printed
    assert "marked redis" not in printed


@pytest.mark.parametrize("arguments", [["tests/test_it.py"], ["-k", "redis"], ["-m", "redis"]])
def test_part_of_the_suite_is_not_checked(tmp_path: Path, arguments: list[str]) -> None:
    status, printed = run_suite(tmp_path, INCOMPLETE, *arguments)
    assert (status, "expected at least" in printed) == (0, False)


@pytest.mark.parametrize(("fixture", "status"), [("clickhouse_url", 0), ("tmp_path", 1)])
def test_a_kind_may_be_left_to_another_process(tmp_path: Path, fixture: str, status: int) -> None:
    other, claims = tmp_path / "tests" / "test_other.py", tmp_path / "claims"
    other.parent.mkdir()
    other.write_text(f"def test_it({fixture}): pass")
    claims.mkdir()
    (claims / str(other).replace("/", "+")).touch()
    assert run_suite(tmp_path, INCOMPLETE, claims=claims)[0] == status
