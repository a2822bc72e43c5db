"""examples/packages/with_periodiq.py: one job of each actor a minute, and none that is late."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.examples.packages.running import Place, Program, worker

RAN = r"((?:by-hand|(?:late-|in-time-)?tick(?:_async)?) ran)"
PERIODIQ = str(Path(sys.executable).parent / "periodiq")
MODULE = "formrelay.examples.packages.with_periodiq"


@dataclass
class Ticks:
    """What the actors printed, and what the scheduler says that it sent."""

    lines: list[str]
    scheduled: list[str]


@pytest.fixture(scope="module")
def ticks(places: Callable[[str], Place]) -> dict[str, Ticks]:
    """Schedulers over a full minute, and jobs sent by hand, late and in time; by broker."""
    both = [places("redis"), places("rabbitmq")]  # at the same time, to wait for one minute
    with ExitStack() as running:
        schedulers, workers = [], []
        for place in both:
            schedulers.append(Program(place, PERIODIQ, MODULE))
            running.callback(schedulers[-1].stop)
            workers.append(running.enter_context(worker(place, "with_periodiq", "clock")))
            _send(place)
        for scheduler, program in zip(schedulers, workers, strict=True):
            # One at the start, and one at the next full minute.
            scheduler.wait_for("Scheduling", count=4, timeout=130)
            program.wait_for(" ran", count=8)
            program.wait_for_outcomes(done=10)
        lines = [re.findall(RAN, each.output) for each in workers]
        sent = [each.output.splitlines() for each in schedulers]
    return {"redis": Ticks(lines[0], sent[0]), "rabbitmq": Ticks(lines[1], sent[1])}


def _send(place: Place) -> None:
    now = datetime.now(UTC)
    for actor in ("tick", "tick_async"):
        place.send("clock", actor, "by-hand")
        for name, age in (("late", 45), ("in-time", 0)):
            at = (now - timedelta(seconds=age)).isoformat()
            place.send("clock", actor, f"{name}-{actor}", scheduled_at=at)


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("actor", ["tick", "tick_async"])
def test_each_minute_sends_one_job_and_a_late_job_is_skipped(
    ticks: dict[str, Ticks], broker: str, actor: str
) -> None:
    found = ticks[broker]
    sent = [line for line in found.scheduled if f"Scheduling Actor({actor}) at" in line]
    minutes = {line.partition(" at ")[2][:16] for line in sent}  # 2026-11-29T16:55
    assert len(sent) == len(minutes) >= 2, found.scheduled
    assert 2 <= found.lines.count(f"{actor} ran") <= len(sent)
    assert found.lines.count(f"in-time-{actor} ran") == 1
    assert found.lines.count(f"late-{actor} ran") == 0
    assert found.lines.count("by-hand ran") == 2
