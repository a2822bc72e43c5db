"""The checks of dead letters, workers and queues in ``formrelay doctor``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ...brokers import Inspector, NotAvailable, get_broker
from ...core.printable import printable
from .. import health_check
from ..output import age
from ..status_json import list_workers
from .finding import Finding

#: Maximum number of workers that are named.
_MAX_NAMED = 5


def check_dead_letters() -> Iterator[Finding]:
    """Count the dead letters of each queue, with the cause of the newest."""
    inspector = get_broker().inspector
    counts = [each for each in inspector.counts_of(inspector.queues()) if each.dead]
    for each in counts:
        queue = shlex.quote(printable(each.queue))
        todo = f"run formrelay dlq list --queue {queue}, then dlq replay or dlq delete"
        letters = "dead letter" if each.dead == 1 else "dead letters"
        says = f"{each.dead:,} {letters} in {each.queue}{_newest(inspector, each.queue)}"
        yield Finding("dead letters", "weak", f"{says}; {todo}")
    if not counts:
        yield Finding("dead letters", "ok", "there are none")


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
    """Check that workers are alive."""
    broker = get_broker()
    workers = list_workers(broker)
    if workers is None:
        says = "not known: RabbitMQ lists workers only with STATE_URL or RABBITMQ_API_URL"
        yield Finding("workers", "weak", f"{says}; set one of them")
        return
    silent = [each for each in workers if not each["alive"]]
    for each in silent[:_MAX_NAMED]:
        says = (
            f"{each['name'] or each['id']} sent its last heartbeat {age(each['silent_for_s'])} ago"
            ": it was killed or hangs; its jobs go to other workers"
        )
        yield Finding("workers", "weak", f"{says}; end its process if it still runs")
    if (more := len(silent) - _MAX_NAMED) > 0:
        yield Finding("workers", "weak", f"{more} more are silent; run formrelay workers")
    count = len(workers) - len(silent)
    if count:
        yield Finding("workers", "ok", f"{count} alive")
    else:
        yield Finding("workers", "weak", "none is alive; run formrelay worker")


def check_queues() -> Iterator[Finding]:
    """Check that workers consume each queue that has jobs."""
    part = health_check.check_queues(get_broker())
    if not part.is_ok:
        todo = "start a worker of these queues (formrelay worker --queue)"
        yield Finding("queues", "weak", f"{part.says}; {todo}")
