"""``formrelay jobs cancel``: delete jobs that do not run yet."""

from __future__ import annotations

from typing import Annotated

from ...brokers import Inspector, State
from ...core.errors import FormrelayError
from ...core.printable import shown_id
from ..audit import audited, id_words
from ..output import print_json, say
from .confirm import YesOption, confirm
from .options import (
    CANDIDATES,
    JsonOption,
    QueueOption,
    id_argument,
    only_match,
    open_inspector,
)


class NotCancelled(FormrelayError):
    """The job was not cancelled."""


def cancel_jobs(
    ids: Annotated[list[str], id_argument("Job ids or unique prefixes.", metavar="ID...")],
    queue: QueueOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete waiting or scheduled jobs. A job in flight is finished.

    Not on RabbitMQ. Asks for confirmation on a terminal; scripts are not asked.

    Example: formrelay jobs cancel 39c2c01a
    """
    inspector = open_inspector(queue)
    # Resolve every id first: if one is wrong, nothing is changed.
    found = [_resolve(inspector, id, queue) for id in ids]
    words = id_words([id for _, id in found])
    confirm(f"Cancel {len(found)} {'job' if len(found) == 1 else 'jobs'} ({words})", yes=yes)
    count = 0
    with audited("jobs cancel", words) as entry:
        for where, id in found:
            if not inspector.cancel(where, id):
                raise NotCancelled(_why_not(inspector, where, id))
            count += 1
            entry.count = count
    if json:
        print_json({"cancelled": count})
    else:
        say(f"cancelled: {count}")


def _resolve(inspector: Inspector, id: str, queue: str | None) -> tuple[str, str]:
    found = only_match(id, "job", inspector.ids(id, queue, limit=CANDIDATES + 1))
    if found is None:
        # Raises NotAvailable on RabbitMQ, where only dead letters are found.
        inspector.cancel(queue or inspector.queues()[0], id)
        raise NotCancelled(f"there is no job '{shown_id(id)}', or it is done")
    return found


def _why_not(inspector: Inspector, queue: str, id: str) -> str:
    found = inspector.find(id, queue)
    if found is not None and found.state is State.IN_FLIGHT:
        return f"the job '{shown_id(id)}' is in flight: it runs, or a worker is about to run it"
    if found is not None and found.state is State.DEAD:
        return f"the job '{shown_id(id)}' is dead-lettered: formrelay dlq delete deletes it"
    return f"the job '{shown_id(id)}' is done"
