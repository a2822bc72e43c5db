"""Sends every job through the real workers, and waits until every queue is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from ...actors import enqueue_many, record_events, save_submission, send_email, update_sheet
from .client import count_submissions
from .errors import DemoFailed
from .interrupts import check
from .mailbox import count_emails
from .services import Services
from .survey import Answer, per_form
from .watch import ProgressBars, ProgressTimeout, Snapshot, Totals

#: Number of jobs sent between two updates of the progress bars.
_CHUNK = 1000


@dataclass(slots=True)
class Sent:
    """Number of jobs that the broker accepted."""

    submissions: int = 0
    events: int = 0
    emails: int = 0
    rows: int = 0

    @property
    def jobs(self) -> int:
        return self.submissions + self.events + self.emails + self.rows


@dataclass(slots=True)
class Scenario:
    """Sends all answers. ``sent`` is correct even if the run fails."""

    services: Services
    answers: Sequence[Answer]
    sent: Sent = field(default_factory=Sent)
    _recorded: int = 0

    def run(self, console: Console, *, deadline: float, stall: float) -> None:
        """Send all jobs and wait until they are settled.

        Args:
            deadline: maximum duration in seconds.
            stall: maximum time without progress in seconds.

        Raises:
            DemoFailed: a process has ended, progress has stalled, or the deadline has passed.
            BrokerError: the broker rejected a job, or is unavailable.
        """
        events = [event for answer in self.answers for event in answer.events]
        emails = [job for answer in self.answers if (job := answer.autoresponse)]
        total = len(self.answers)
        totals = Totals(total, len(events), webhooks=total, emails=len(emails), rows=total)
        timeout = ProgressTimeout(totals, deadline=deadline, stall=stall)
        if not console.is_terminal:  # no progress bars
            console.print(f"sending {totals.jobs:,} jobs, then waiting until every queue is empty")
        with ProgressBars(console, totals) as bars:
            submissions = [answer.submission for answer in self.answers]
            self.sent.submissions = enqueue_many(save_submission, submissions)
            self.sent.emails = enqueue_many(send_email, emails)
            rows = [answer.row for answer in self.answers]
            self.sent.rows = enqueue_many(update_sheet, rows)
            for first in range(0, len(events), _CHUNK):
                chunk = events[first : first + _CHUNK]
                self.sent.events += enqueue_many(record_events, chunk)
                self._update(bars)
            while not (state := self._update(bars)).idle:
                try:
                    timeout.wait(state)
                except DemoFailed as error:
                    raise DemoFailed(f"{error}{self.services.children.tails()}") from None
        check()

    def _update(self, bars: ProgressBars) -> Snapshot:
        self.services.children.check()
        state = self._state()
        bars.draw(self.sent.jobs, state)
        return state

    def _state(self) -> Snapshot:
        queues = self.services.queues
        # In this order, because a submission is settled after its webhook is queued.
        submissions, events, webhooks, emails, sheets = map(self.services.unsettled, queues)
        # The queue of events also has the events of deliveries and e-mails, which nobody sent here.
        self._recorded = max(self._recorded, self.sent.events - events)
        delivered = self.services.receiver.get("/stats")["delivered"]
        return Snapshot(
            saved=sum(
                count_submissions(self.services.api, form_id) for form_id in per_form(self.answers)
            ),
            events=self._recorded,
            settled=delivered + self.services.broker.counts(queues.webhooks).dead,
            emails=count_emails(self.services.mail),
            rows=self.services.sheet.get("/stats")["rows"],
            idle=not (submissions or events or webhooks or emails or sheets),
        )
