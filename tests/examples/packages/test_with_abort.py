"""examples/packages/with_abort.py: an abort ends one attempt, and no attempt beside it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest
from dramatiq_abort import Abortable, abort
from dramatiq_abort.backends import RedisBackend

from formrelay.core.failure import Reason
from tests.examples.packages.running import Place, worker


@dataclass
class Ended:
    """What became of the jobs.

    Attributes:
        lines: the lines that the jobs printed, with their numbers.
        reasons: the reason of each dead letter, by id.
        aborted: ids of the jobs that were aborted while they ran, by actor.
    """

    lines: Counter[str]
    reasons: dict[str, Reason]
    aborted: dict[str, str]


@pytest.fixture(scope="module")
def ended(place: Place) -> Ended:
    """Jobs of which one of each actor is aborted while it runs, and another while it waits."""
    asking = Abortable(backend=RedisBackend.from_url(place.redis))
    aborted, waiting = {}, []
    with worker(place, "with_abort", "exports", ABORT_REDIS_URL=place.redis) as program:
        for actor, count, seconds in (("export", 3, 4), ("crawl", 30, 4)):
            for number in range(count):
                place.send("exports", actor, f"{actor}-{number}", seconds)
            aborted[actor] = place.send("exports", actor, f"{actor}-aborted", 300)
            waiting.append(place.send("exports", actor, f"{actor}-waiting", 300, delay=3_000))
        program.wait_for(" began", count=35)
        for id in [*aborted.values(), *waiting]:
            abort(id, middleware=asking)
        program.wait_for(" ended", count=33)
        program.wait_for('"isSkipped": ?true', count=3)
        lines = Counter(re.findall(r"(?:export|crawl)-\w+ (?:began|ended)", program.output))
    reasons = {letter.id: letter.failure.reason for letter in place.dead("exports")}
    return Ended(lines, reasons, aborted)


@pytest.mark.parametrize(("actor", "count"), [("export", 3), ("crawl", 30)])
def test_an_abort_ends_one_attempt_and_the_others_end_by_themselves(
    ended: Ended, actor: str, count: int
) -> None:
    mine = Counter({line: count for line, count in ended.lines.items() if line.startswith(actor)})
    expected = {
        f"{actor}-{number} {end}": 1 for number in range(count) for end in ("began", "ended")
    }
    assert mine == Counter({**expected, f"{actor}-aborted began": 1})


def test_an_aborted_job_is_done_or_a_dead_letter_if_its_actor_throws_abort(ended: Ended) -> None:
    assert ended.reasons == {ended.aborted["crawl"]: Reason.NOT_RETRIED}
