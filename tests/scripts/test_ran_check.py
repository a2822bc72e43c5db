"""RanCheck: a run of the whole suite fails if no test of some kind of server passed."""

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
import pytest
from tests.support.ran import RanCheck

def pytest_configure(config):
    for kind in ("redis", "rabbitmq", "clickhouse"):
        config.addinivalue_line("markers", kind)
    config.pluginmanager.register(RanCheck(config, required=True))

@pytest.fixture
def redis_url():
    return "redis://"
"""

COMPLETE = """
import pytest
def test_redis(redis_url): pass
@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_contract(broker): pass
@pytest.mark.clickhouse
def test_clickhouse(): pass
"""


def run_suite(folder: Path, tests: str, *arguments: str) -> tuple[int, str]:
    (folder / "tests").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (folder / "tests" / "conftest.py").write_text(CONFTEST)
    (folder / "tests" / "test_it.py").write_text(tests)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        argv, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_whole_run_with_a_passed_test_of_each_kind_passes(tmp_path: Path) -> None:
    assert run_suite(tmp_path, COMPLETE)[0] == 0


def test_whole_run_without_a_kind_fails_and_names_it(tmp_path: Path) -> None:
    status, printed = run_suite(tmp_path, COMPLETE.replace("mark.clickhouse", "mark.skip"))
    assert status == 1
    assert "expected at least one test marked clickhouse to pass, got none" in printed
    assert "marked redis" not in printed


@pytest.mark.parametrize("arguments", [["tests/test_it.py"], ["-k", "redis"], ["-m", "redis"]])
def test_part_of_the_suite_is_not_checked(tmp_path: Path, arguments: list[str]) -> None:
    status, printed = run_suite(tmp_path, "def test_redis(redis_url): pass", *arguments)
    assert (status, "expected at least" in printed) == (0, False)
