"""``formrelay dlq replay`` and ``formrelay dlq delete``."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Annotated, Any

import typer

from ...brokers import DeadFilter, Inspector
from ...brokers.inspection import Extent
from ..audit import audited, filter_words, id_words
from ..output import print_json, progress_bar, say, say_error
from ..worker.boot import NOT_FINE
from .candidates import dead_letter_ids
from .confirm import YesOption, can_ask, confirm
from .dead_filter import resolve, with_filter
from .options import DryRunOption, JsonOption, id_argument, note_hidden_queues, open_inspector

IdsArgument = Annotated[
    list[str] | None,
    id_argument("Job ids or unique prefixes.", metavar="ID...", complete=dead_letter_ids),
]
AllOption = Annotated[bool, typer.Option("--all", help="All dead letters, or all of --queue.")]
RateOption = Annotated[
    float | None,
    typer.Option(min=0.001, help="Maximum number per second. Default: no limit."),
]


@with_filter
def replay_dead_letters(
    which: DeadFilter,
    ids: IdsArgument = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
    rate: RateOption = None,
    json: JsonOption = False,
) -> None:
    """Put dead letters back on their queue, by id or by filter.

    Their attempts count from 1 again. Ctrl-C stops after the current step;
    run the same command again to continue.

    Example: formrelay dlq replay --group 3f9c81d0a2 --rate 100
    """
    is_filter = which != DeadFilter() and not (ids and which == DeadFilter(which.queue))
    _check_selection(ids, every, is_filter, "")
    selection = _select(which, ids)
    _run(_Action("replay", "replayed", selection.inspector.replay, rate, json), selection, dry_run)


@with_filter
def delete_dead_letters(
    which: DeadFilter,
    ids: IdsArgument = None,
    every: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    rate: RateOption = None,
    json: JsonOption = False,
) -> None:
    """Delete dead letters permanently, by id or by filter.

    Asks for confirmation on a terminal; scripts are not asked.
    Ctrl-C stops after the current step.

    Example: formrelay dlq delete --queue webhooks --reason invalid --dry-run
    """
    # Deleting a queue's dead letters needs --all as well: it cannot be undone.
    _check_selection(ids, every, replace(which, queue=None) != DeadFilter(), " other than --queue")
    selection = _select(which, ids)
    if not dry_run and not yes and can_ask():
        count, at_least = selection.count()
        many = f"at least {count:,}" if at_least else f"{count:,}"
        noun = "dead letter" if count == 1 and not at_least else "dead letters"
        confirm(f"Delete {many} {noun} ({selection.words})", yes=yes)
    _run(
        _Action("delete", "deleted", selection.inspector.delete_dead, rate, json),
        selection,
        dry_run,
    )


def _check_selection(ids: list[str] | None, every: bool, is_filter: bool, other: str) -> None:
    if bool(ids) + (every or is_filter) != 1:
        raise typer.BadParameter(f"expected ids of dead letters, or a filter{other}, or --all")


@dataclass(frozen=True)
class _Selection:
    """The selected dead letters: ids by queue, or without ids a filter."""

    inspector: Inspector
    which: DeadFilter
    ids: dict[str, list[str]]

    @property
    def words(self) -> str:
        return filter_words(self.which) if not self.ids else self.id_words

    @property
    def id_words(self) -> str:
        return id_words([id for ids in self.ids.values() for id in ids])

    def count(self) -> tuple[int, bool]:
        """Return the number of dead letters, and whether there may be more."""
        extent = Extent()
        change = self.inspector.replay
        if not self.ids:
            return change(self.which, dry_run=True, extent=extent), not extent.is_complete
        counts = (change(ids, queue=queue, dry_run=True) for queue, ids in self.ids.items())
        return sum(counts), False


def _select(which: DeadFilter, ids: list[str] | None) -> _Selection:
    inspector = open_inspector(which.queue)
    # Resolve every id first: if one is wrong, nothing is changed.
    chosen: defaultdict[str, list[str]] = defaultdict(list)
    for queue, id in _resolved(inspector, ids or (), which.queue):
        chosen[queue].append(id)
    return _Selection(inspector, which, chosen)


def _resolved(
    inspector: Inspector, ids: Iterable[str], queue: str | None
) -> Iterator[tuple[str, str]]:
    for id in ids:
        yield resolve(inspector, id, queue, whole_queues=True)  # the change moves letters too


@dataclass(frozen=True)
class _Action:
    name: str
    done: str
    change: Callable[..., int]
    rate: float | None
    json: bool

    def say(self, count: int, **more: Any) -> None:
        if self.json:
            print_json({self.done: count, "dry_run": False, **more})
        elif more.get("dry_run"):
            say(f"would be {self.done}: {'at least ' if more.get('at_least') else ''}{count}")
        else:
            say(f"{self.done}: {count}")


def _run(action: _Action, selection: _Selection, dry_run: bool) -> None:
    if selection.which.queue is None and not selection.ids:
        note_hidden_queues(selection.inspector)
    if dry_run:
        count, at_least = selection.count()
        if not action.json:
            say_error(f"selected: {selection.words}")
        action.say(count, dry_run=True, **({"at_least": True} if at_least else {}))
        return
    total = None
    if can_ask():  # for the progress bar
        count, at_least = selection.count()
        total = None if at_least else count
    with stoppable() as should_stop:
        count = _change(action, selection, total, should_stop)
    stopped = should_stop()
    action.say(count, **({"stopped": True} if stopped else {}))
    if stopped:
        say_error("stopped; run the same command again to continue")
        raise typer.Exit(NOT_FINE)


def _change(
    action: _Action, selection: _Selection, total: int | None, should_stop: Callable[[], bool]
) -> int:
    options: dict[str, Any] = {"rate": action.rate, "should_stop": should_stop}
    filter = "" if selection.ids else selection.words
    with (
        audited(f"dlq {action.name}", selection.id_words, filter=filter) as entry,
        progress_bar(action.done, total) as show,
    ):
        entry.count = 0

        def progress(count: int, before: int = 0) -> None:
            entry.progress(before + count)
            show(before + count)

        if not selection.ids:
            entry.count = action.change(selection.which, progress=progress, **options)
        for queue, ids in selection.ids.items():
            before = entry.count
            step = action.change(
                ids, queue=queue, progress=lambda n, before=before: progress(n, before), **options
            )
            entry.count = before + step
        if should_stop():
            entry.outcome = "stopped"
    return entry.count


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM stop between two steps; a second signal ends the process at once.

    Yields:
        a function that returns whether to stop.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say_error("stopping after this step; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
