"""Which job runs here, so that the messages that it sends carry its id.

The id is in a context variable of the attempt. Coroutines, ``asyncio.to_thread`` and hooks after
the attempt see it; a thread that the actor starts sees it only in a copy of the context
(``contextvars.copy_context().run``).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypeAlias

import dramatiq

from .delivery import CAUSED_BY, Batch, Delivery

#: Id and options of the job of an attempt. Not its payload, which a task that the actor leaves
#: behind would keep in memory.
_Job: TypeAlias = tuple[str, dict[str, Any]]
_running: ContextVar[_Job | None] = ContextVar("formrelay_running_job", default=None)


def enter_job(delivery: Delivery) -> None:
    """Note that the actor of a delivery is about to run in this context.

    Of several messages in a batch, none is known to be the cause of what the actor sends.
    """
    if isinstance(delivery, Batch):
        if len(delivery.parts) != 1:
            _running.set(None)
            return
        delivery = delivery.parts[0]
    _running.set((delivery.message_id, delivery.options))


def cause_of(message: dramatiq.Message[Any]) -> str | None:
    """Return the id of the job that sends a message.

    Returns:
        None: no job runs here, or the message names another cause. A copy of the running job's own
        message names the cause of that job; its cause is the running job all the same.
    """
    running = _running.get()
    if running is None:
        return None
    id, options = running
    given = message.options.get(CAUSED_BY)
    return id if given is None or given == options.get(CAUSED_BY) else None
