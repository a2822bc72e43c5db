"""Counts the requests that the clients of the sinks report for metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from formrelay.core.request_times import request_counts


@contextmanager
def counting(sink: str) -> Iterator[dict[str, int]]:
    """Give a dictionary that has the number of requests by result after the block."""
    found: dict[str, int] = {}
    before = _numbers(sink)
    yield found
    found |= {
        result: number - before.get(result, 0)
        for result, number in _numbers(sink).items()
        if number != before.get(result, 0)
    }


def _numbers(sink: str) -> dict[str, int]:
    """Requests of a sink by result: the sum of the bins, which follow the sum of the seconds."""
    rows = request_counts().items()
    return {result: int(sum(row[1:])) for (name, result), row in rows if name == sink}
