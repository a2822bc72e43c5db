"""Stores for tests: in a real Redis, with the time of the test instead of the server's clock."""

from __future__ import annotations

import re
from datetime import timedelta
from importlib.resources import files
from typing import Any

from formrelay.state import StateRedis
from formrelay.state.redis.connection import connect_redis, redis_address

CLOCK = "clock"


def state_of(url: str, namespace: str = "dramatiq") -> StateRedis:
    """The shared state in the Redis at a URL."""
    client = connect_redis(url, timeout=timedelta(seconds=5))
    return StateRedis(client, redis_address(url), namespace)


def use_clock(store: Any, client: Any, script: str) -> None:
    """Let the script of a store read the time that :func:`set_clock` sets, in place of TIME.

    Keys do not expire then: Redis would go by its own clock.
    """
    text = files("formrelay.state.redis").joinpath(script).read_text()
    assert "redis.call('time')" in text
    read = f"redis.call('lrange', '{CLOCK}', 0, -1)"
    text = re.sub(r", 'px', string\.format.*$", ")", text, flags=re.MULTILINE)
    text = re.sub(r"^ *redis\.call\('pexpire'.*$", "", text, flags=re.MULTILINE)
    store._script = client.register_script(text.replace("redis.call('time')", read))


def set_clock(client: Any, seconds: float) -> None:
    """Set the time of scripts."""
    micros = round(seconds * 1_000_000)
    with client.pipeline() as pipeline:
        pipeline.delete(CLOCK)
        pipeline.rpush(CLOCK, micros // 1_000_000, micros % 1_000_000)
        pipeline.execute()
