"""Counts the settled messages of this process by queue, outcome, duration and error group.

Counting a message takes no lock: each thread has counts of its own, which only grow, and
:meth:`OutcomeCounts.collect` returns the difference from its last call. Errors are rarer, and are
counted with a lock.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from ..core.error_groups import group_id
from ..core.failure import Failure
from ..core.outcomes import Dead, Defer, Done, Outcome, Retry
from ..state.history import BIN_COUNT, BIN_ENDS, MAX_GROUPS, OTHER, Tally

#: The positions of the outcomes in a list of counts; the counts of the durations follow.
_POSITIONS: dict[type[Outcome], int] = {Done: 0, Retry: 1, Dead: 2, Defer: 3}
_DEFERRED = _POSITIONS[Defer]
_DURATIONS = len(_POSITIONS)
_SIZE = _DURATIONS + BIN_COUNT


class _OfThread(NamedTuple):
    """The counts of one thread, by queue, and their values at the last call of ``collect``."""

    thread: threading.Thread
    counts: dict[str, list[int]]
    collected: dict[str, list[int]]


class OutcomeCounts:
    """Counts of settled messages. Thread-safe.

    Args:
        group: returns the id of the group of an error.
    """

    def __init__(self, group: Callable[[Failure], str] = group_id) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._local = threading.local()
        # Protected by the lock:
        self._threads: list[_OfThread] = []
        self._errors: dict[str, dict[str, int]] = {}

    def add(self, queue: str, outcome: Outcome, took: float | None, number: int = 1) -> None:
        """Count messages with the same outcome.

        Args:
            took: seconds of the attempt; None if the actor was not called.
            number: number of messages.
        """
        try:
            counts = self._local.counts[queue]
        except (AttributeError, KeyError):
            counts = self._new_counts(queue)
        position = _POSITIONS[type(outcome)]
        counts[position] += number
        if position == _DEFERRED:  # not an attempt
            return
        if took is not None:
            counts[_DURATIONS + bisect_left(BIN_ENDS, took)] += number
        if position:
            self._count_error(queue, outcome, number)

    def collect(self) -> dict[str, Tally]:
        """Return the counts since the last call, by queue; queues without counts are absent."""
        with self._lock:
            found: dict[str, Tally] = {}
            for each in self._threads:
                for queue, counts in list(each.counts.items()):
                    now = list(counts)
                    before = each.collected.get(queue, [0] * _SIZE)
                    if now != before:
                        each.collected[queue] = now
                        tally = found.setdefault(queue, Tally())
                        tally.add(_tally([a - b for a, b in zip(now, before, strict=True)]))
            self._threads = [each for each in self._threads if each.thread.is_alive()]
            errors, self._errors = self._errors, {}
            for queue, groups in errors.items():
                found.setdefault(queue, Tally()).errors = groups
            return found

    def _new_counts(self, queue: str) -> list[int]:
        """Add a list of counts for a queue of the calling thread."""
        if not hasattr(self._local, "counts"):
            self._local.counts = {}
            with self._lock:
                of_thread = _OfThread(threading.current_thread(), self._local.counts, {})
                self._threads.append(of_thread)
        counts = self._local.counts[queue] = [0] * _SIZE
        return counts

    def _count_error(self, queue: str, outcome: Outcome, number: int) -> None:
        assert isinstance(outcome, Retry | Dead)
        group = self._group(outcome.failure)
        with self._lock:
            groups = self._errors.setdefault(queue, {})
            if group not in groups and len(groups) >= MAX_GROUPS:
                group = OTHER
            groups[group] = groups.get(group, 0) + number


def _tally(counts: list[int]) -> Tally:
    done, retried, dead, deferred, *durations = counts
    return Tally(done, retried, dead, deferred, durations)
