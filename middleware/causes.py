"""Which job runs here, so that the messages that it sends carry its id and its trace.

Both are in context variables of the attempt. Coroutines, ``asyncio.to_thread`` and hooks after
the attempt see them; a thread that the actor starts sees them only in a copy of the context
(``contextvars.copy_context().run``).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, TypeAlias

import dramatiq

from ..core.disclosure import Disclosure
from ..core.trace_context import TraceContext, current_trace, read
from .delivery import CAUSED_BY, Batch, Delivery


class _Batch:
    """A batch of several messages.

    Attributes:
        batch: its parts are gone when it is settled.
        traces: the traces of the parts by message id, read when they are first needed.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.traces: dict[str, TraceContext | None] = {}


#: The job of an attempt: its id (None for a batch of several messages), the options of its
#: message, the disclosure of its exceptions, the batch, and the actor. Not its payload, which a
#: task that the actor leaves behind would keep in memory. A plain tuple, since each job needs one.
_Job: TypeAlias = tuple[str | None, dict[str, Any], Disclosure, _Batch | None, str]
_running: ContextVar[_Job | None] = ContextVar("formrelay_running_job", default=None)


def enter_job(delivery: Delivery, disclosure: Disclosure) -> None:
    """Note that the actor of a delivery is about to run in this context.

    Of several messages in a batch, none is known to be the cause of what the actor sends.
    """
    if isinstance(delivery, Batch):
        if len(delivery.parts) != 1:
            _running.set((None, {}, disclosure, _Batch(delivery), delivery.actor_name))
            current_trace.set(None)
            return
        delivery = delivery.parts[0]
    _running.set((delivery.message_id, delivery.options, disclosure, None, delivery.actor_name))
    current_trace.set(trace_of(delivery.message))


def cause_of(message: dramatiq.Message[Any]) -> str | None:
    """Return the id of the job that sends a message.

    Returns:
        None: no job runs here, or the message names another cause. A copy of the running job's own
        message names the cause of that job; its cause is the running job all the same.
    """
    running = _running.get()
    if running is None:
        return None
    id, options, *_ = running
    given = message.options.get(CAUSED_BY)
    return id if given is None or given == options.get(CAUSED_BY) else None


def trace_of(message: dramatiq.Message[Any]) -> TraceContext | None:
    """Return the trace context in the options of a message, otherwise in its metadata."""
    if message.options:
        found = read(message.options)
        if found is not None:
            return found
    metadata = message.kwargs.get("metadata")
    if metadata is None and len(message.args) > 1:  # (payload, metadata), from stock producers
        metadata = message.args[1]
    return read(metadata)


def part_trace(message: dramatiq.Message[Any]) -> TraceContext | None:
    """Return the trace of the part of the running batch that a message names as its cause."""
    cause = message.options.get(CAUSED_BY) if message.options else None
    running = _running.get() if isinstance(cause, str) else None
    batch = None if running is None else running[3]
    if batch is None:
        return None
    if not batch.traces:
        batch.traces = {part.message_id: trace_of(part.message) for part in batch.batch.parts}
    return batch.traces.get(str(cause))


def disclosure_here() -> Disclosure | None:
    """The disclosure of the attempt that runs here; None outside of attempts."""
    running = _running.get()
    return None if running is None else running[2]


def job_here() -> tuple[str, str | None] | None:
    """The actor and the id of the job that runs here; None outside of attempts.

    The id is None in a batch of several messages.
    """
    running = _running.get()
    return None if running is None else (running[4], running[0])
