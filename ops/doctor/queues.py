"""The checks of dead letters, workers and queues in ``formrelay doctor``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ...brokers import Inspector, NotAvailable, get_broker
from ...core.printable import printable
from ..health import check as health_check
from ..health.status_json import list_workers
from ..health.worker_states import FAILING, WorkerState
from ..output import age
from .finding import Finding

#: Maximum number of workers in a state that are named.
_MAX_NAMED = 5


def check_dead_letters(queues: Sequence[str] | None = None) -> Iterator[Finding]:
    """Count the dead letters of each queue, with the cause of the newest.

    Args:
        queues: the queues to check; None checks every queue that can be listed.
    """
    inspector = get_broker().inspector
    shown = inspector.queues() if queues is None else _existing(inspector, queues)
    found = inspector.counts_of(shown)
    counts = [each for each in found if each.dead or each.dead_is_lower_bound]
    for each in counts:
        queue = shlex.quote(printable(each.queue))
        todo = f"run formrelay dlq list --queue {queue}, then dlq replay or dlq delete"
        letters = "dead letter" if each.dead == 1 else "dead letters"
        least = "at least " if each.dead_is_lower_bound else ""
        says = f"{least}{each.dead:,} {letters} in {each.queue}{_newest(inspector, each.queue)}"
        yield Finding("dead letters", "weak", f"{says}; {todo}")
    if counts:
        return
    if queues is None and (hidden := _hidden(inspector)):
        yield Finding("dead letters", "weak", f"none in the known queues; {hidden}")
    else:
        yield Finding("dead letters", "ok", "there are none")


def _hidden(inspector: Inspector) -> str:
    """Return why the broker may have queues that are not listed; empty if it has none."""
    try:
        inspector.check_listing()
    except NotAvailable as error:
        return (
            f"other queues are not known: name the modules of their actors with --import ({error})"
        )
    return ""


def _existing(inspector: Inspector, queues: Sequence[str]) -> list[str]:
    """Return the queues that exist; another check names the others."""
    return [queue for queue in queues if inspector.has_queue(queue)]


def _newest(inspector: Inspector, queue: str) -> str:
    """Describe the newest dead letter of a queue; empty if the broker cannot find it."""
    try:
        found = inspector.newest_dead(queue, limit=1)
    except NotAvailable:
        return ""
    if not found:
        return ""
    letter = found[0]
    ago = "" if letter.died is None else f" {age(get_broker().clock.time() - letter.died)} ago"
    failure = letter.failure
    cause = "dead-lettered outside formrelay" if failure is None else failure.reason.value
    message = f": {failure.message}" if failure is not None and failure.message else ""
    return f"; the newest{ago}, {letter.message.actor_name}: {cause}{message}"


def check_workers() -> Iterator[Finding]:
    """Check that workers are alive, and that none hangs, is cut off or has died."""
    broker = get_broker()
    workers = list_workers(broker)
    if workers is None:
        says = "RabbitMQ lists workers only with STATE_URL or RABBITMQ_API_URL; set one of them"
        problem = broker.inspector.degraded()
        yield Finding("workers", "weak", f"not known: {problem or says}")
        return
    yield from broken_workers(workers)
    count = sum(each["alive"] for each in workers)
    if count:
        yield Finding("workers", "ok", f"{count} alive")
    else:
        hangs = any(each["state"] == WorkerState.HANGS for each in workers)
        says = "none takes jobs" if hangs else "none is alive; run formrelay worker"
        yield Finding("workers", "weak", says)


def broken_workers(workers: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Name the workers that do not work, at most a few in each state.

    Args:
        workers: the worker processes as JSON.
    """
    for state, (says, todo) in _TODO.items():
        found = [each for each in workers if each["state"] == state]
        level: Literal["weak", "bad"] = "bad" if state in FAILING else "weak"
        for each in found[:_MAX_NAMED]:
            name = each["name"] or each["id"]
            yield Finding("workers", level, f"{name} {says}: {each['why']}; {todo}")
        if (more := len(found) - _MAX_NAMED) > 0:
            text = f"{more} more in the state {state}; run formrelay workers"
            yield Finding("workers", level, text)


#: What each state of a worker is, and what to do.
_TODO = {
    WorkerState.HANGS: ("hangs", "look at it with py-spy dump, then end the process"),
    WorkerState.NO_BROKER: ("cannot use the broker", "check the network of its machine"),
    WorkerState.DIED: ("died", "nothing to do if others run its queues"),
    WorkerState.SILENT: ("is silent", "read its log, and end its process if it still runs"),
}


def check_queues(queues: Sequence[str] | None = None) -> Iterator[Finding]:
    """Check that workers consume each queue that has jobs, and that no queue is paused.

    Args:
        queues: the queues to check; None checks every queue that can be listed.
    """
    broker = get_broker()
    inspector = broker.inspector
    shown = inspector.queues() if queues is None else _existing(inspector, queues)
    part, _ = health_check.check_queues(broker, shown)
    if not part.is_ok:
        todo = "start a worker of these queues (formrelay worker --queue)"
        yield Finding("queues", "weak", f"{part.says}; {todo}")
    for each in inspector.counts_of(shown):
        if each.paused:
            jobs = "job waits" if each.waiting == 1 else "jobs wait"
            says = f"{each.queue} is paused, and {each.waiting:,} {jobs}"
            todo = f"run formrelay queues resume {shlex.quote(printable(each.queue))}"
            yield Finding("queues", "weak", f"{says}; {todo}")
