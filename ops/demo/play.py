"""Send every job through the real workers, and watch until no queue holds anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from ...actors import enqueue_many, record_events, save_submission
from .client import saved
from .errors import DemoFailed
from .interrupts import check
from .stage import Stage
from .survey import Answer, Json, per_form
from .watch import Board, Patience, State, Totals

#: Jobs sent between two looks.
_CHUNK = 1000


@dataclass(slots=True)
class Sent:
    """How many jobs the broker has taken."""

    submissions: int = 0
    events: int = 0


@dataclass(slots=True)
class Play:
    """One run of all answers. ``sent`` is right also after it broke off."""

    stage: Stage
    answers: Sequence[Answer]
    sent: Sent = field(default_factory=Sent)

    def run(self, console: Console, *, deadline: float, stall: float) -> None:
        """Send, and wait for the end.

        Raises:
            DemoFailed: a process has ended, nothing moves, or it takes too long.
            BrokerError: the broker did not take a job, or does not answer.
        """
        events = [event for answer in self.answers for event in answer.events]
        totals = Totals(len(self.answers), len(events), webhooks=len(self.answers))
        patience = Patience(totals, deadline=deadline, stall=stall)
        if not console.is_terminal:  # where there are no bars
            console.print(f"sending {totals.jobs:,} jobs, then waiting until every queue is empty")
        with Board(console, totals) as board:
            submissions = [answer.submission for answer in self.answers]
            self.sent.submissions = enqueue_many(save_submission, submissions)
            for chunk in _chunks(events):
                self.sent.events += enqueue_many(record_events, chunk)
                self._look(board)
            while not (state := self._look(board)).idle:
                try:
                    patience.wait(state)
                except DemoFailed as error:
                    raise DemoFailed(f"{error}{self.stage.children.tails()}") from None
        check()

    def _look(self, board: Board) -> State:
        self.stage.children.check()
        state = self._state()
        board.draw(self.sent.submissions + self.sent.events, state)
        return state

    def _state(self) -> State:
        queues = self.stage.queues
        # In this order: a submission that has left its queue has put its webhook on theirs.
        submissions, events, webhooks = map(
            self._left, (queues.submissions, queues.events, queues.webhooks)
        )
        delivered = self.stage.receiver.get("/stats")["delivered"]
        return State(
            saved=sum(saved(self.stage.api, form_id) for form_id in per_form(self.answers)),
            events=self.sent.events - events,
            settled=delivered + self.stage.broker.counts(queues.webhooks).dead,
            idle=not (submissions or events or webhooks),
        )

    def _left(self, queue: str) -> int:
        """How many messages of a queue are not settled."""
        counts = self.stage.broker.counts(queue)
        return counts.waiting + (counts.scheduled or 0) + (counts.in_flight or 0)


def _chunks(jobs: Sequence[Json]) -> list[Sequence[Json]]:
    return [jobs[first : first + _CHUNK] for first in range(0, len(jobs), _CHUNK)]
