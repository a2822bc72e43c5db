"""The snapshot of a worker process, which it writes into a file: its state and its counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import Any, TypeAlias

import orjson

#: Maximum number of label values of a kind of counts in all files together. A process counts less
#: than a tenth of these; processes of many versions may add up to more.
MAX_ROWS = 5_000

#: Numbers that only grow, by the values of their labels.
Rows: TypeAlias = dict[tuple[str, ...], list[float]]
#: Rows by kind, such as ``jobs``.
Counts: TypeAlias = dict[str, Rows]


class ProcessState(StrEnum):
    """The state of a worker process."""

    READY = "ready"
    #: It finishes its jobs and fetches no more.
    STOPPING = "stopping"
    ENDED = "ended"
    #: It ended because it had run its maximum number of jobs, or used its maximum memory.
    RECYCLED = "recycled"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of one worker process, and its counts since it started.

    Attributes:
        id: unique among all processes that ever ran on this machine.
        version: version of formrelay.
        python: version of Python.
        broker: ``redis``, ``rabbitmq`` or ``embedded``.
        started: when the worker started, Unix seconds.
        at: when the snapshot was made, Unix seconds.
        monotonic: the same time by the clock that all processes of a machine share and that no
            one can set, in seconds.
        stalled: seconds since one of its consumers last looked for a message.
        problem: why it cannot use the broker; empty if it can.
        memory_bytes: resident memory; None if the system does not say.
        queues: names of the queues that it consumes.
        paused: the circuit breaker of each sink: True if it is open or half-open.
        breakers_open: number of webhook endpoints whose circuit breaker is open.
    """

    id: str
    pid: int
    host: str
    version: str
    python: str
    broker: str
    started: float
    at: float
    monotonic: float
    state: ProcessState = ProcessState.READY
    stalled: float = 0.0
    problem: str = ""
    memory_bytes: int | None = None
    queues: tuple[str, ...] = ()
    paused: Mapping[str, bool] = field(default_factory=dict)
    breakers_open: int = 0
    counts: Counts = field(default_factory=dict)

    @property
    def age(self) -> float:
        """Seconds since the snapshot was made."""
        age = time.monotonic() - self.monotonic
        return age if age >= 0 else max(0.0, time.time() - self.at)

    @property
    def name(self) -> str:
        """``host:pid``, the name of the process in log lines."""
        return f"{self.host}:{self.pid}"

    @property
    def is_ready(self) -> bool:
        """Whether it fetches messages."""
        return self.state is ProcessState.READY

    @property
    def has_ended(self) -> bool:
        """Whether it ended as it should."""
        return self.state in (ProcessState.ENDED, ProcessState.RECYCLED)

    def to_bytes(self) -> bytes:
        """Convert to JSON."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "counts"}
        return orjson.dumps(found | {"counts": counts_to_json(self.counts)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Read a snapshot of this or another version; unknown fields are ignored.

        Raises:
            ValueError: it is not a snapshot.
        """
        found = orjson.loads(data)
        if not isinstance(found, dict):
            raise ValueError("expected a JSON object")
        try:
            values = {name: kind(found[name]) for name, kind in _KINDS.items() if name in found}
            memory = found.get("memory_bytes")
            values["memory_bytes"] = None if memory is None else int(memory)
            return cls(**values)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"expected a snapshot, got another object ({error})") from None


def _state(value: Any) -> ProcessState:
    return ProcessState(value) if value in ProcessState._value2member_map_ else ProcessState.READY


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value))


def counts_to_json(counts: Counts) -> dict[str, Any]:
    """Convert to plain JSON: a list of rows for each kind, since keys of JSON are texts."""
    return {kind: [[list(key), *row] for key, row in rows.items()] for kind, rows in counts.items()}


def counts_from_json(data: Any) -> Counts:
    """The inverse of :func:`counts_to_json`."""
    return {
        str(kind): {_texts(key): [float(number) for number in row] for key, *row in rows}
        for kind, rows in data.items()
    }


def add_counts(total: Counts, more: Counts) -> None:
    """Add ``more`` to ``total``, without the rows of a kind above :data:`MAX_ROWS`."""
    for kind, rows in more.items():
        into = total.setdefault(kind, {})
        for key, row in rows.items():
            if key in into or len(into) < MAX_ROWS:
                into[key] = _sums(into.get(key, ()), row)


def subtract_counts(counts: Counts, before: Counts) -> Counts:
    """Return ``counts`` minus the counts ``before``."""
    return {
        kind: {
            key: _sums(row, [-number for number in before.get(kind, {}).get(key, ())])
            for key, row in rows.items()
        }
        for kind, rows in counts.items()
    }


def _sums(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0)]


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("id", "host", "version", "python", "broker", "problem"), str),
    **dict.fromkeys(("pid", "breakers_open"), int),
    **dict.fromkeys(("started", "at", "monotonic", "stalled"), float),
    "state": _state,
    "queues": _texts,
    "paused": dict,
    "counts": counts_from_json,
}
