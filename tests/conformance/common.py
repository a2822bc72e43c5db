"""Stands for ``tests/common.py`` of Dramatiq: the names that its tests import from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from dramatiq import Worker


@contextmanager
def worker(*args: Any, **options: Any) -> Iterator[Worker]:
    """A worker that runs until the block ends."""
    running = Worker(*args, **options)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def _skip(is_skipped: bool, reason: str = "does not apply here") -> Any:
    return pytest.mark.skipif(is_skipped, reason=reason)


skip_in_ci = _skip(False)
skip_on_windows = _skip(False)
skip_on_pypy = _skip(False)
skip_with_gevent = _skip(False)
skip_without_gevent = _skip(True, "needs gevent")
skip_unless_rabbit_mq = _skip(True, "tests Dramatiq's own RabbitMQ broker")
RABBITMQ_USERNAME = RABBITMQ_PASSWORD = "guest"
RABBITMQ_CREDENTIALS = pika.PlainCredentials(RABBITMQ_USERNAME, RABBITMQ_PASSWORD)
