"""Runs functions at once, in threads, within a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..probes import answers_within


class Late(Exception):
    """A function has not returned in time."""


class BoundedCalls:
    """Runs functions by name. A function that still runs from an earlier call is not run again."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._lock = threading.Lock()

    def run(self, calls: Mapping[str, Callable[[], Any]], limit: float) -> dict[str, Any]:
        """Run each function in a thread of its own.

        Args:
            limit: seconds for all together.

        Returns:
            By name, the result, or the exception: :class:`Late` for a function that takes longer.
        """
        with self._lock:
            started = calls.keys() - self._running
            self._running |= started
        probes = {name: partial(self._run, name, calls[name]) for name in started}
        found = dict(answers_within(limit, probes))
        late = Late(f"no answer within {limit:g} s")
        return {name: found.get(name, late) for name in calls}

    def _run(self, name: str, call: Callable[[], Any]) -> Iterator[Any]:
        try:
            result = call()
        except Exception as error:  # the caller decides about it
            result = error
        with self._lock:
            self._running.discard(name)
        yield result
