"""Sample tests, which test_quick.py has pytest run.

Each test except the last two starts a process, or needs a server, in a different way. The last but
one starts a process in a way that the quick tier does not detect; the last is quick.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.checks import run_steps
from tests.actors.receiver import receiving
from tests.support import command
from tests.support.servers import RedisServer


@contextmanager
def context() -> Iterator[None]:
    subprocess.run(["true"], check=True)
    yield


class Starter:
    def start(self) -> None:
        with context():
            pass


class Derived(Starter):
    pass


def mutually_recursive() -> None:
    test_by_functions_that_call_each_other()


@pytest.fixture
def process() -> None:
    subprocess.run(["true"], check=True)


def test_itself() -> None:
    subprocess.run(["true"], check=True)


def test_by_a_fork() -> None:
    assert os.fork()


def test_by_a_fixture(process: None) -> None:
    pass


def test_by_a_fixture_requested_at_run_time(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("process")


def test_by_a_helper(tmp_path: Path) -> None:
    command.run("doctor", cwd=tmp_path, env={})


def test_by_a_script() -> None:
    run_steps([])


def test_by_a_server() -> None:
    with RedisServer():
        pass


def test_by_the_embedded_broker(tmp_path: Path) -> None:
    from formrelay.brokers.embedded import ensure_running

    ensure_running(tmp_path)


def test_by_a_function_inside() -> None:
    def inside() -> None:
        with context():
            pass

    inside()


def test_by_a_class() -> None:
    Derived().start()


def test_by_functions_that_call_each_other() -> None:
    mutually_recursive()
    Starter()


@pytest.mark.redis
def test_with_a_mark() -> None:
    pass


def test_with_the_shared_server(redis_url: str) -> None:
    pass


def test_by_an_undetected_way() -> None:
    importlib.import_module("sub" + "process").run(["true"])


def test_quick() -> None:
    with receiving():
        pass
