"""Reads everything that a Redis holds."""

from __future__ import annotations

from typing import Any

import orjson
import redis


def dump(client: redis.Redis) -> bytes:
    """Return all keys and values, as bytes to search; each on a line."""
    lines: list[bytes] = []
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        lines.append(_bytes(key))
        lines += map(_bytes, _flat(_READ[kind.decode()](client, key)))
    return b"\n".join(lines)


_READ: dict[str, Any] = {
    "string": lambda client, key: client.get(key),
    "hash": lambda client, key: client.hgetall(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: client.smembers(key),
    "zset": lambda client, key: client.zrange(key, 0, -1),
    "stream": lambda client, key: client.xrange(key),
    "none": lambda client, key: [],  # it has expired
}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in _flat(part)]
    if isinstance(value, list | tuple | set):
        return [each for part in value for each in _flat(part)]
    return [value]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else orjson.dumps(value, default=str)
