"""The pytest plugin, in projects of its own: isolation, early imports, formrelay's actors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors.receiver import Answer, receiving
from tests.support.command import clean_environment
from tests.testing.test_documents import run_tests

PLUGIN = ("-p", "formrelay.testing.plugin")

ACTORS = """
import dramatiq
from formrelay.brokers import get_broker

@dramatiq.actor(broker=get_broker(), queue_name="mine")
def work(number):
    if number < 0:
        raise ValueError(number)

@dramatiq.actor(queue_name="plain")
def plain():
    pass
"""

TESTS = """
import threading
import pytest
from actors import plain, work

def test_one(formrelay_broker, formrelay_worker):
    work.send_with_options(args=(1,), max_retries=0)
    work.send_with_options(args=(-1,), max_retries=0)
    formrelay_broker.join("mine", fail_fast=False)
    work.send_with_options(args=(2,), delay=3_600_000)

def test_two(formrelay_broker, formrelay_worker):
    counts = formrelay_broker.counts("mine")
    assert (counts.waiting, counts.scheduled, counts.dead) == (0, 0, 0)
    assert plain.broker is formrelay_broker
    plain.send()
    formrelay_broker.join("plain")

def test_three():
    others = [one for one in threading.enumerate() if one is not threading.main_thread()]
    for thread in others:
        thread.join(30)
        assert not thread.is_alive(), thread
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_each_test_gets_an_empty_broker_and_leaves_no_thread(tmp_path: Path) -> None:
    write(tmp_path, actors=ACTORS, test_actors=TESTS)
    done = run_tests(tmp_path, *PLUGIN, PYTHONPATH=".")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_conftest_may_name_the_plugin(tmp_path: Path) -> None:
    write(tmp_path, actors=ACTORS, test_actors=TESTS)
    write(tmp_path, conftest='pytest_plugins = ["formrelay.testing.plugin"]')
    done = run_tests(tmp_path, PYTHONPATH=".")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_broker_is_in_memory_before_other_plugins_import_the_project(tmp_path: Path) -> None:
    """As pytest-django does, which imports the project's apps in this hook."""
    early = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    import actors
"""
    write(tmp_path, actors=ACTORS, test_actors=TESTS, early=early)
    done = run_tests(tmp_path, *PLUGIN, "-p", "early", PYTHONPATH=".")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_actors_on_another_broker_are_refused_in_one_line(tmp_path: Path) -> None:
    late = 'import actors\npytest_plugins = ["formrelay.testing.plugin"]'
    write(tmp_path, actors=ACTORS, test_actors=TESTS, conftest=late)
    done = run_tests(tmp_path, PYTHONPATH=".", REDIS_URL="redis://localhost:1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        "expected no actors before use_broker(), got work, plain on RedisBroker: call it before "
        "the modules with actors are imported"
    ) in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_formrelays_own_actors_run_without_a_configured_broker(tmp_path: Path) -> None:
    tests = """
import os
from formrelay.actors import deliver_webhook

def test_a_webhook_is_retried(formrelay_broker, formrelay_worker):
    job = {"url": os.environ["RECEIVER"], "body": {"a": 1}, "secret": "whsec_" + "A" * 32}
    deliver_webhook.send(payload=job)
    formrelay_broker.join("webhooks")
    assert formrelay_broker.clock.moved.total_seconds() > 29
"""
    write(tmp_path, test_webhooks=tests)
    with receiving() as receiver:
        receiver.answers("/hook", Answer(503))
        done = run_tests(
            tmp_path,
            *PLUGIN,
            RECEIVER=receiver.url + "/hook",
            WEBHOOK_ALLOW_HTTP="true",
            WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert len(receiver.requests) == 2


def test_pytest_does_not_import_formrelay_without_the_plugin(tmp_path: Path) -> None:
    write(tmp_path, test_it="import sys\ndef test_it():\n    assert 'formrelay' not in sys.modules")
    done = run_tests(tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_importing_the_kit_makes_no_broker() -> None:
    code = "import dramatiq.broker, formrelay.testing; assert not dramatiq.broker.global_broker"
    subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=True)
