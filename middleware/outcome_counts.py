"""Counts the settled messages of this process: outcomes, durations, errors, deferrals, batches.

Counting a message takes no lock: each thread has counts of its own, which only grow, and readers
add them up. Errors, deferrals, batches and delayed messages are rarer, and are counted with a lock.

Names that come from messages are counted only if this process knows them; all others together are
:data:`OTHER_LABEL`. So the number of counts has a limit, and no name is a payload value.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from ..core.durations import BIN_COUNT, BIN_ENDS
from ..core.error_groups import group_id
from ..core.failure import Failure
from ..core.outcomes import DONE, Dead, Defer, Done, Outcome, Retry
from ..state.history import MAX_GROUPS, OTHER, Tally

#: The outcomes in the order in which they are counted.
OUTCOMES = ("done", "retry", "dead", "defer")
#: The label of undeclared actors, and of actors and error types above the maximum.
OTHER_LABEL = "other"
#: Maximum number of actors and of error types with a label of their own.
MAX_ACTORS, MAX_ERROR_TYPES = 100, 50
#: Upper ends of the bins of batch sizes. One more bin has the larger batches. Never change them.
BATCH_ENDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)

#: The positions of the outcomes in a list of counts; the sum and the bins of the durations follow.
_POSITIONS: dict[type[Outcome], int] = {Done: 0, Retry: 1, Dead: 2, Defer: 3}
_SECONDS = len(_POSITIONS)
_DURATIONS = _SECONDS + 1
_SIZE = _DURATIONS + BIN_COUNT
_ERROR_TYPE = re.compile(r"[A-Za-z_][\w.<>]{0,119}\Z", re.ASCII)

#: Queue and actor.
_Key: TypeAlias = tuple[str, ...]
#: Numbers that only grow, by kind and by the values of their labels.
Totals: TypeAlias = dict[str, dict[tuple[str, ...], list[float]]]


class _OfThread(NamedTuple):
    """The counts of one thread."""

    thread: threading.Thread
    counts: dict[str, dict[str, list[float]]]


class OutcomeCounts:
    """Counts of settled messages. Thread-safe.

    Args:
        group: returns the id of the group of an error.
        is_actor: whether an actor is declared.
    """

    def __init__(
        self,
        group: Callable[[Failure], str] = group_id,
        is_actor: Callable[[str], bool] = bool,
    ) -> None:
        self._group = group
        self._is_actor = is_actor
        self._lock = threading.Lock()
        self._local = threading.local()
        # Protected by the lock:
        self._threads: list[_OfThread] = []
        #: The counts of threads that ended.
        self._ended: dict[_Key, list[float]] = {}
        #: The sums at the last call of :meth:`collect`.
        self._collected: dict[_Key, list[float]] = {}
        self._errors: dict[str, dict[str, int]] = {}
        self._actors: set[str] = set()
        self._error_types: set[str] = set()
        self._others: Totals = {}

    def add(self, queue: str, actor: str, outcome: Outcome, took: float | None) -> None:
        """Count one message.

        Args:
            took: seconds of the attempt; None if the actor was not called.
        """
        # As add_many(), in fewer steps: this runs once for each message.
        try:
            counts = self._local.counts[queue][actor]
        except (AttributeError, KeyError):
            counts = self._new_counts(queue, actor)
        if outcome is DONE:
            counts[0] += 1
        elif not self._add_other(counts, queue, outcome, 1):
            return
        if took is not None:
            counts[_SECONDS] += took
            counts[_DURATIONS + bisect_left(BIN_ENDS, took)] += 1

    def add_many(
        self, queue: str, actor: str, outcome: Outcome, took: float | None, number: int
    ) -> None:
        """Count messages with the same outcome and the same duration."""
        try:
            counts = self._local.counts[queue][actor]
        except (AttributeError, KeyError):
            counts = self._new_counts(queue, actor)
        if self._add_other(counts, queue, outcome, number) and took is not None:
            counts[_SECONDS] += took * number
            counts[_DURATIONS + bisect_left(BIN_ENDS, took)] += number

    def add_batch(self, queue: str, actor: str, size: int) -> None:
        """Count a batch by its number of messages."""
        with self._lock:
            row = self._row("batches", (queue, self._actor_label(actor)), 2 + len(BATCH_ENDS))
            _observe(row, BATCH_ENDS, size)

    def add_lateness(self, queue: str, seconds: float) -> None:
        """Count the start of a delayed message that was due ``seconds`` ago."""
        with self._lock:
            _observe(self._row("lateness", (queue,), 1 + BIN_COUNT), BIN_ENDS, seconds)

    def collect(self) -> dict[str, Tally]:
        """Return the counts since the last call, by queue; queues without counts are absent."""
        with self._lock:
            found: dict[str, Tally] = {}
            sums = self._sums()
            for key, now in sums.items():
                before = self._collected.get(key)
                if now != before:
                    tally = found.setdefault(key[0], Tally())
                    tally.add(_tally(now, before or [0] * _SIZE))
            self._collected = sums
            errors, self._errors = self._errors, {}
            for queue, groups in errors.items():
                found.setdefault(queue, Tally()).errors = groups
            return found

    def totals(self, actors: Iterable[tuple[str, str]] = ()) -> Totals:
        """Return all counts since this object was made, by kind.

        The kinds, their labels and their numbers:

        - ``jobs``: queue, actor; the :data:`OUTCOMES`, then the sum in seconds and the bins of the
          durations
        - ``batches``: queue, actor; the sum and the bins of the sizes
        - ``retries``, ``dead_letters``: queue, error type; a number
        - ``deferrals``: queue, reason; a number
        - ``lateness``: queue; the sum and the bins of the seconds

        Args:
            actors: queues and actors that are counted as zero before their first message.
        """
        with self._lock:
            jobs: dict[_Key, list[float]] = {
                (queue, self._actor_label(actor)): [0] * _SIZE for queue, actor in actors
            }
            jobs.update(self._sums())
            others = {
                kind: {key: list(row) for key, row in rows.items()}
                for kind, rows in self._others.items()
            }
            return {"jobs": jobs} | others

    def _sums(self) -> dict[_Key, list[float]]:
        sums = {key: list(counts) for key, counts in self._ended.items()}
        threads = []
        for each in self._threads:
            is_alive = each.thread.is_alive()  # first: a thread that ends now may still count
            for queue, actors in list(each.counts.items()):
                for actor, counts in list(actors.items()):
                    _add_to(sums, (queue, actor), list(counts))
                    if not is_alive:
                        _add_to(self._ended, (queue, actor), list(counts))
            if is_alive:
                threads.append(each)
        self._threads = threads
        return sums

    def _new_counts(self, queue: str, actor: str) -> list[float]:
        """Return a list of counts of the calling thread, made if it has none for the labels."""
        with self._lock:
            if not hasattr(self._local, "counts"):
                self._local.counts = {}
                self._threads.append(_OfThread(threading.current_thread(), self._local.counts))
            label = self._actor_label(actor)
        counts: dict[str, list[float]] = self._local.counts.setdefault(queue, {})
        return counts.setdefault(label, [0] * _SIZE)

    def _actor_label(self, actor: str) -> str:
        if actor in self._actors:
            return actor
        if len(self._actors) >= MAX_ACTORS or not self._is_actor(actor):
            return OTHER_LABEL
        self._actors.add(actor)
        return actor

    def _error_label(self, error: str) -> str:
        if error in self._error_types:
            return error
        if len(self._error_types) >= MAX_ERROR_TYPES or not _ERROR_TYPE.match(error):
            return OTHER_LABEL
        self._error_types.add(error)
        return error

    def _row(self, kind: str, labels: tuple[str, ...], size: int = 1) -> list[float]:
        return self._others.setdefault(kind, {}).setdefault(labels, [0] * size)

    def _add_other(self, counts: list[float], queue: str, outcome: Outcome, number: int) -> bool:
        """Count any outcome; return whether it ended an attempt."""
        counts[_POSITIONS[type(outcome)]] += number
        if isinstance(outcome, Defer):
            with self._lock:
                self._row("deferrals", (queue, outcome.reason))[0] += number
            return False
        if not isinstance(outcome, Done):
            self._count_error(queue, outcome, number)
        return True

    def _count_error(self, queue: str, outcome: Retry | Dead, number: int) -> None:
        group = self._group(outcome.failure)
        kind = "retries" if isinstance(outcome, Retry) else "dead_letters"
        with self._lock:
            self._row(kind, (queue, self._error_label(outcome.failure.error)))[0] += number
            groups = self._errors.setdefault(queue, {})
            if group not in groups and len(groups) >= MAX_GROUPS:
                group = OTHER
            groups[group] = groups.get(group, 0) + number


def _observe(row: list[float], ends: tuple[float, ...], value: float) -> None:
    row[0] += value
    row[1 + bisect_left(ends, value)] += 1


def _add_to(sums: dict[_Key, list[float]], key: _Key, counts: list[float]) -> None:
    before = sums.get(key)
    sums[key] = counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]


def _tally(now: list[float], before: list[float]) -> Tally:
    numbers = [int(a - b) for a, b in zip(now, before, strict=True)]
    done, retried, dead, deferred = numbers[:_SECONDS]
    return Tally(done, retried, dead, deferred, numbers[_DURATIONS:])
