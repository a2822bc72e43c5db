"""A pytest plugin: the in-memory broker, emptied for each test, and a worker.

``addopts = "-p formrelay.testing.plugin"`` in the configuration of pytest loads it before Django
and before conftest.py. Projects without this line never import it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from dramatiq import Worker

from ..core.errors import ConfigError
from .broker import MemoryBroker
from .install import use_memory_broker
from .workers import running_worker


# A wrapper runs before the plugin of Django, which imports the project in the same hook.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, object, object]:
    """Use the in-memory broker before any module with actors is imported."""
    _use()
    return (yield)


def pytest_configure() -> None:
    """Use the in-memory broker if a conftest.py names this plugin."""
    _use()


def _use() -> None:
    try:
        use_memory_broker()
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def formrelay_broker() -> Iterator[MemoryBroker]:
    """The in-memory broker, without messages, dead letters and idempotency keys."""
    broker = use_memory_broker()
    broker.reset()
    yield broker
    broker.close()
    broker.reset()


@pytest.fixture
def formrelay_worker(formrelay_broker: MemoryBroker) -> Iterator[Worker]:
    """A worker that runs the jobs of all queues during the test."""
    with running_worker(formrelay_broker) as worker:
        yield worker
