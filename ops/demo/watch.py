"""How far things are: the bars, and the patience that ends when nothing moves."""

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

_LOOK_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Totals:
    """What there is to do: the ends of the bars."""

    submissions: int
    events: int
    webhooks: int

    @property
    def jobs(self) -> int:
        return self.submissions + self.events


@dataclass(frozen=True, slots=True)
class State:
    """How far things are.

    Attributes:
        settled: webhooks delivered, or dead after their last attempt.
        idle: no queue holds anything any more.
    """

    saved: int
    events: int
    settled: int
    idle: bool


class Board:
    """The bars; where there is no terminal, nothing."""

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

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def draw(self, sent: int, state: State) -> None:
        """Move the bars."""
        update = self._progress.update
        update(self._sent, completed=sent)
        update(self._saved, completed=state.saved)
        update(self._events, completed=state.events)
        update(self._settled, completed=state.settled)


class Patience:
    """How long is long enough.

    Args:
        deadline: for everything, in seconds.
        stall: without any change, in seconds.
    """

    def __init__(self, totals: Totals, *, deadline: float, stall: float) -> None:
        self._totals = totals
        self._deadline, self._stall = deadline, stall
        self._begun = self._moved = time.monotonic()
        self._last: State | None = None

    def wait(self, state: State) -> None:
        """Let a moment pass after a look.

        Raises:
            DemoFailed: it has taken too long; names what has not come.
        """
        now = time.monotonic()
        if state != self._last:
            self._last, self._moved = state, now
        if now - self._moved > self._stall:
            raise DemoFailed(f"nothing has moved for {self._stall:.0f} s: {self._missing(state)}")
        if now - self._begun > self._deadline:
            raise DemoFailed(f"not done within {self._deadline:.0f} s: {self._missing(state)}")
        time.sleep(_LOOK_SECONDS)
        check()

    def _missing(self, state: State) -> str:
        pairs = {
            "submissions saved": (state.saved, self._totals.submissions),
            "events recorded": (state.events, self._totals.events),
            "webhooks settled": (state.settled, self._totals.webhooks),
        }
        short = [
            f"{name} {came} of {total}" for name, (came, total) in pairs.items() if came != total
        ]
        return ", ".join(short) or "a queue is not empty"
