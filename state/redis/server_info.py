"""Reads product, version and clock of a Redis server."""

from __future__ import annotations

from typing import Any

from ...core.clock import Clock
from ...core.server_info import ServerInfo


def read_server_info(client: Any, clock: Clock) -> ServerInfo:
    """Ask a Redis server for its product, version and time.

    Raises:
        redis.RedisError: the server did not answer, or does not allow INFO or TIME.
    """
    server = client.info("server")
    before = clock.time()
    seconds, micros = client.time()
    after = clock.time()
    is_valkey = server.get("server_name") == "valkey"
    version = server.get("valkey_version") if is_valkey else server.get("redis_version")
    return ServerInfo(
        "Valkey" if is_valkey else "Redis",
        str(version),
        clock_ahead=seconds + micros / 1e6 - (before + after) / 2,
        clock_error=(after - before) / 2,
    )
