"""Fixtures of the contract: every test in this folder runs on every broker."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.embedded import ensure_running, release
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.testing import MemoryBroker
from tests.support.harness import Harness, flush_embedded
from tests.support.share import NAME as SHARE
from tests.support.waiting import wait_until

OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1), max_message_bytes=10_000)
#: Tests that the in-memory broker cannot have, by name or file, each with the reason. Tests of
#: restarts, dead workers and connections are in ``../redis`` and ``../rabbitmq``.
NOT_IN_MEMORY = {
    "test_odd_ids.py": "other programs cannot write to it, and its ids are text",
    "test_messages_fetched_between_two_pages_cause_no_gap_or_repetition": "changes keys of Redis",
    "test_scheduled_messages_are_browsed_by_due_time_even_if_many_are_equal": "as above",
    "test_messages_in_flight_on_several_workers_are_shown_once": "it has one process",
    "test_jobs_in_the_inbox_are_listed_after_the_queue": "it has no inbox",
}
#: Files that a run of everything runs on the embedded broker too, which is a Redis (Valkey): they
#: send, settle and list messages. scripts/test-range and scripts/test FILES run all files on it.
EMBEDDED_IN_BRIEF = {
    *("test_outcomes.py", "test_sending.py", "test_follow_ups.py", "test_inspection.py"),
}
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that the in-memory broker cannot have, and most on the embedded broker."""
    left_out = [item for item in items if _is_not_in_memory(item)]
    if config.pluginmanager.has_plugin(SHARE):
        left_out += [item for item in items if _is_in_range_alone(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_in_range_alone(item: pytest.Item) -> bool:
    is_embedded = item.get_closest_marker("embedded") is not None
    return is_embedded and item.path.parent == HERE and item.path.name not in EMBEDDED_IN_BRIEF


def _is_not_in_memory(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    names = {item.path.name, item.originalname}
    return item.callspec.params.get("broker") == "memory" and bool(names & NOT_IN_MEMORY.keys())


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = Path(tmp_path_factory.mktemp("embedded"))
    yield ensure_running(folder)
    release(folder)
    wait_until(lambda: not (folder / "valkey" / "valkey.sock").exists())


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("memory", marks=pytest.mark.memory),
    ]
)
def broker(request: pytest.FixtureRequest) -> RelayBroker:
    match request.param:
        case "redis":
            return RedisBroker(request.getfixturevalue("redis_url"), options=OPTIONS)
        case "rabbitmq":
            return RabbitBroker(request.getfixturevalue("rabbitmq_url_of_module"), options=OPTIONS)
        case "memory":
            return MemoryBroker(options=OPTIONS)
        case _:
            url = request.getfixturevalue("embedded_url")
            flush_embedded(url)
            return RedisBroker(url, options=OPTIONS)


@pytest.fixture
def harness(broker: RelayBroker, unique: str) -> Iterator[Harness]:
    harness = Harness(broker, unique)
    yield harness
    harness.close()
