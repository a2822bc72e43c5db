"""Starts an embedded broker for a test session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from formrelay.brokers.embedded import ensure_running, release
from tests.support.waiting import wait_until


@contextmanager
def embedded_server(folder: Path) -> Iterator[str]:
    """URL of a server in ``folder``, killed at the end (its keeper would wait for seconds)."""
    url = ensure_running(folder)
    yield url
    release(folder)
    with redis.Redis.from_url(url) as client:
        client.shutdown(nosave=True)
    wait_until(lambda: not (folder / "valkey" / "valkey.sock").exists())
