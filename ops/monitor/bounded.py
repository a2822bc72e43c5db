"""Runs functions at once, in threads, within a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any


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
        results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        started = []
        for name, call in calls.items():
            with self._lock:
                if name in self._running:
                    continue
                self._running.add(name)
            started.append(name)
            # A daemon: it may hang for longer than the process runs.
            thread = f"formrelay-monitor-{name}"
            threading.Thread(
                target=self._run, args=(name, call, results), name=thread, daemon=True
            ).start()
        found: dict[str, Any] = {}
        end = monotonic() + limit
        try:
            while len(found) < len(started):
                name, result = results.get(timeout=max(0.0, end - monotonic()))
                found[name] = result
        except Empty:
            pass
        late = Late(f"no answer within {limit:g} s")
        return {name: found.get(name, late) for name in calls}

    def _run(
        self, name: str, call: Callable[[], Any], results: SimpleQueue[tuple[str, Any]]
    ) -> None:
        try:
            result = call()
        except Exception as error:  # the caller decides about it
            result = error
        with self._lock:
            self._running.discard(name)
        results.put((name, result))
