"""Shows one job: on a terminal as a page with tables, otherwise as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...brokers import Entry, get_broker
from ...brokers.attempt_history import attempts_of
from ...core.past_attempts import DEAD, DEFER, PastAttempt
from ...core.printable import shown_id
from ..caused_jobs import CausedJobs, cause_in
from ..masking import masked, without_tokens
from ..output import (
    age,
    is_on_terminal,
    print_facts,
    print_json,
    print_table,
    say,
)
from ..progress import progress_json
from .job_json import is_retried, iso_or_none, why, with_message


def show(
    entry: Entry, *, as_json: bool, reveal: bool = False, caused: CausedJobs | None = None
) -> None:
    """Print a job.

    Args:
        as_json: whether to print JSON on a terminal too.
        reveal: whether to show the values of the payload, except for OAuth tokens.
        caused: the jobs that it caused, if they were searched for.
    """
    if as_json or not is_on_terminal():
        print_json(with_message(entry, reveal=reveal, caused=caused))
        return
    now = get_broker().clock.time()
    print_facts(list(_facts(entry, now)))
    _print_attempts(attempts_of(entry), now)
    if caused is not None:
        print_caused(caused)
    say()
    say("Payload" if reveal else "Payload, its values masked: --reveal shows them")
    payload = {"args": list(entry.message.args), "kwargs": entry.message.kwargs}
    print_json(without_tokens(payload) if reveal else masked(payload))


def print_caused(caused: CausedJobs) -> None:
    """Print the jobs that a job caused, and over which jobs the search looked."""
    rows = [
        (shown_id(each.id), each.message.actor_name, each.queue, each.state.value, why(each))
        for each in caused.entries
    ]
    columns = ["id", "actor", "queue", "state", "last failure"]
    say()
    print_table("Jobs it caused", columns, rows, empty="no queue has a job that it caused")
    say(caused.extent)


def _facts(entry: Entry, now: float) -> Iterator[tuple[str, str]]:
    cause, failure, progress = cause_in(entry), entry.failure, progress_json(entry)
    yield "id", shown_id(entry.id)
    yield "actor", entry.message.actor_name
    yield "queue", entry.queue
    yield "state", entry.state.value.replace("_", " ")
    yield "sent", _moment(entry.message.message_timestamp / 1000, now)
    if entry.due is not None:
        yield "next run", _moment(entry.due, now)
    if entry.worker is not None:
        yield "worker", entry.worker
    if entry.died is not None:
        yield "died", _moment(entry.died, now)
    if cause is not None:
        yield "caused by", shown_id(cause)
    if progress is not None:
        yield "progress", str(progress["text"])
    if failure is None:
        yield "last failure", why(entry) or "none"
        return
    if not is_retried(entry):
        yield "reason", failure.reason.value.replace("_", " ")
    yield "attempts", str(failure.attempt)
    same = failure.message == failure.error
    yield "last failure", failure.error if same else f"{failure.error}: {failure.message}"
    for number, text in enumerate(failure.causes):
        yield "" if number else "because of", text
    for number, text in enumerate(failure.where):
        yield "" if number else "traceback", text
    yield "failed on", failure.worker


def _print_attempts(attempts: Sequence[PastAttempt], now: float) -> None:
    if not attempts:
        return
    say()
    columns = ["attempt", "ended", "took", "outcome", "next", "why"]
    before = [None, *attempts]
    rows = [_attempt(each, last, now) for last, each in zip(before, attempts, strict=False)]
    print_table("Attempts", columns, rows, empty="")
    if attempts[0].attempt > 1:
        say("earlier attempts are in the log: search it for the id")


def _attempt(each: PastAttempt, before: PastAttempt | None, now: float) -> tuple[Any, ...]:
    outcome = {DEFER: "deferred", DEAD: "dead"}.get(each.outcome, each.outcome)
    times = f" {each.count:,} times" if each.count > 1 else ""
    parts = [each.error.rpartition(".")[2], each.message]
    if before is not None and before.outcome == DEAD:
        parts.insert(1, "(after a replay)")
    if each.is_redelivered:
        parts.append("(delivered again: its worker died or lost its connection)")
    return (
        str(each.attempt),
        None if each.at is None else f"{age(now - each.at)} ago",
        None if each.took is None else f"{each.took:.3g}s",
        outcome + times,
        None if each.next_in is None else age(each.next_in),
        " ".join(filter(None, parts)) or None,
    )


def _moment(at: float, now: float) -> str:
    """Format a time, and how far it is away."""
    away = f"in {age(at - now)}" if at > now else f"{age(now - at)} ago"
    return f"{iso_or_none(at) or at} ({away})"
