"""Progress of the demo: progress bars, and a timeout when progress stalls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from .errors import DemoFailed
from .interrupts import check

_POLL_INTERVAL = 0.15


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of the progress bars."""

    submissions: int
    events: int
    webhooks: int
    emails: int
    rows: int

    @property
    def jobs(self) -> int:
        return self.submissions + self.events + self.emails + self.rows


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Progress at one moment.

    Attributes:
        settled: number of webhooks that were delivered or dead-lettered.
        emails: number of e-mails that the SMTP server has accepted.
        rows: number of rows in the spreadsheet.
        idle: whether every queue is empty.
    """

    saved: int
    events: int
    settled: int
    emails: int
    rows: int
    idle: bool


class ProgressBars:
    """The progress bars; prints nothing without a terminal."""

    def __init__(self, console: Console, totals: Totals) -> None:
        self._totals = totals
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        add = self._progress.add_task
        self._sent = add("jobs sent         ", total=totals.jobs)
        self._saved = add("submissions saved ", total=totals.submissions)
        self._events = add("events recorded   ", total=totals.events)
        self._settled = add("webhooks settled  ", total=totals.webhooks)
        self._emails = add("e-mails accepted  ", total=totals.emails)
        self._rows = add("rows in the sheet ", total=totals.rows)

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def draw(self, sent: int, state: Snapshot) -> None:
        """Update the progress bars."""
        update = self._progress.update
        update(self._sent, completed=sent)
        update(self._saved, completed=state.saved)
        update(self._events, completed=state.events)
        update(self._settled, completed=state.settled)
        update(self._emails, completed=state.emails)
        update(self._rows, completed=state.rows)


class ProgressTimeout:
    """Ends the wait when progress stalls or the deadline passes.

    Args:
        deadline: maximum duration in seconds.
        stall: maximum time without progress in seconds.
    """

    def __init__(self, totals: Totals, *, deadline: float, stall: float) -> None:
        self._totals = totals
        self._deadline, self._stall = deadline, stall
        self._started = self._changed = time.monotonic()
        self._last: Snapshot | None = None

    def wait(self, state: Snapshot) -> None:
        """Sleep until the next poll.

        Raises:
            DemoFailed: the time is over; the message names what is missing.
        """
        now = time.monotonic()
        if state != self._last:
            self._last, self._changed = state, now
        if now - self._changed > self._stall:
            raise DemoFailed(f"no progress for {self._stall:.0f} s: {self._missing(state)}")
        if now - self._started > self._deadline:
            raise DemoFailed(f"not finished within {self._deadline:.0f} s: {self._missing(state)}")
        time.sleep(_POLL_INTERVAL)
        check()

    def _missing(self, state: Snapshot) -> str:
        pairs = {
            "submissions saved": (state.saved, self._totals.submissions),
            "events recorded": (state.events, self._totals.events),
            "webhooks settled": (state.settled, self._totals.webhooks),
            "e-mails accepted": (state.emails, self._totals.emails),
            "rows in the spreadsheet": (state.rows, self._totals.rows),
        }
        short = [
            f"{name} {done} of {total}" for name, (done, total) in pairs.items() if done != total
        ]
        return ", ".join(short) or "a queue is not empty"
