"""The history of queues in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from struct import Struct

from ...core.durations import BIN_COUNT
from ..history import (
    HOUR,
    MAX_FAILING_QUEUES,
    MAX_GROUPS,
    MAX_QUEUES,
    NO_TIME,
    OTHER,
    RESOLUTIONS,
    Point,
    Tally,
    Window,
    clean_groups,
    sort_groups,
    sum_counts,
)
from ..millis import duration_millis
from .base import ScriptStore

#: How long the number of the last call of a process is kept.
_KEEP_NUMBER = timedelta(hours=1)
#: Larger counts do not fit.
_MAX_COUNT = 2**32 - 1
#: The formats of values, by the number of counts.
_FORMATS = [Struct(f"<{number}I") for number in range(5 + BIN_COUNT)]


class RedisHistory(ScriptStore):
    """The history of all processes, by the server's clock."""

    script = "history.lua"
    #: Stands between the namespace and the bucket: its length in seconds and its number.
    prefix = ":__history__."

    def add(
        self,
        tallies: Mapping[str, Tally],
        *,
        age: timedelta = NO_TIME,
        source: str,
        number: int,
    ) -> None:
        seconds = age.total_seconds()
        at = self._now() - seconds
        keys, keeps = [f"{self._prefix}by.{source}"], []
        for resolution in RESOLUTIONS:
            if seconds < resolution.keep:
                key = f"{self._prefix}{resolution.step}.{int(at // resolution.step)}"
                keys += [key, f"{key}.errors"]
                keeps.append(1000 * (resolution.keep + resolution.step))
        if not keeps or not tallies:
            return
        counts = [
            part
            for queue, tally in tallies.items()
            for part in (queue, _packed(tally), _pairs(clean_groups(tally.errors)))
        ]
        limits = [MAX_QUEUES, MAX_FAILING_QUEUES, MAX_GROUPS, OTHER]
        self._run_script(keys, number, duration_millis(_KEEP_NUMBER), *limits, *keeps, *counts)

    def read(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, list[Point]]:
        now = self._now()
        window = Window.of(span, now)
        found: dict[str, dict[int, tuple[int, ...]]] = {queue: {} for queue in queues or ()}
        for number, queue, data in self._find(window, queues, ""):
            found.setdefault(queue, {})[number] = _FORMATS[len(data) // 4].unpack(data)
        return {queue: window.points(tallies, now) for queue, tallies in found.items()}

    def errors(
        self, queues: Collection[str] | None = None, span: timedelta = HOUR
    ) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for _, queue, pairs in self._find(Window.of(span, self._now()), queues, ".errors"):
            found[queue] = sum_counts(found.get(queue, {}), _parsed(pairs))
        return {queue: sort_groups(errors) for queue, errors in found.items()}

    def _now(self) -> float:
        with self._connected() as client:
            seconds, micros = client.time()
        return int(seconds) + int(micros) / 1_000_000

    def _find(
        self, window: Window, queues: Collection[str] | None, suffix: str
    ) -> list[tuple[int, str, bytes]]:
        """Return the number of the bucket, the queue and its value, in one round trip."""
        wanted = None if queues is None else list(queues)
        if wanted is not None and not wanted:
            return []
        numbers = range(window.first, window.last + 1)
        with self._connected() as client, client.pipeline(transaction=False) as pipeline:
            for number in numbers:
                key = f"{self._prefix}{window.resolution.step}.{number}{suffix}"
                if wanted is None:
                    pipeline.hgetall(key)
                else:
                    pipeline.hmget(key, wanted)
            answers = pipeline.execute()
        found: list[tuple[int, str, bytes]] = []
        names: dict[bytes, str] = {}
        for number, answer in zip(numbers, answers, strict=True):
            if wanted is not None:
                pairs = zip(wanted, answer, strict=True)
                found += [(number, queue, text) for queue, text in pairs if text is not None]
                continue
            for raw, text in answer.items():
                queue = names.get(raw) or names.setdefault(raw, raw.decode(errors="replace"))
                found.append((number, queue, text))
        return found


def _packed(tally: Tally) -> bytes:
    counts = [min(count, _MAX_COUNT) for count in tally.counts]
    return _FORMATS[len(counts)].pack(*counts)


def _pairs(errors: Mapping[str, int]) -> str:
    return " ".join(f"{group}={count}" for group, count in errors.items())


def _parsed(pairs: bytes) -> dict[str, int]:
    found = [pair.rpartition("=") for pair in pairs.decode(errors="replace").split(" ")]
    return {group: int(count) for group, _, count in found}
