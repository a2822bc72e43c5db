"""A message in flight, with the state that consumers and middleware share.

Dramatiq's worker passes each message on as a ``MessageProxy``. A :class:`Delivery` is such a
proxy; it also carries the outcome and the handle by which its consumer settles it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from dramatiq import Message, MessageProxy

from ..core.outcomes import Outcome
from ..core.trace_context import TraceContext
from ..state.idempotency import Claim

#: The message option that counts retries, as in stock Dramatiq.
RETRIES = "retries"
#: The message option with the record of the last failure.
FAILURE = "failure"
#: The message option with records of the attempts that failed or were deferred, the oldest first.
ATTEMPT_HISTORY = "attempt_history"
#: The message option with the id of the job that sent the message.
CAUSED_BY = "caused_by"
#: The message option with the ``traceparent`` of the last failed attempt's span.
PREVIOUS_ATTEMPT = "previous_attempt"
#: The message options with the last failed attempt's traceback and time (unix milliseconds), as in
#: stock Dramatiq.
TRACEBACK, REQUEUED = "traceback", "requeue_timestamp"
#: The message option of a message that was redelivered, and then deferred.
REDELIVERED = "redelivered"
#: The message option with the time at which a delayed message is due, unix milliseconds.
DUE = "due_at"
#: The keyword argument with which an actor gets a batch.
BATCH = "batch"
#: The key of the positional arguments of a batch part.
ARGS = "args"

#: Numbers deliveries in the order of their arrival.
_numbers = count()


class Delivery(MessageProxy):
    """One message, fetched and not yet settled.

    Attributes:
        tag: the consumer's handle; None for a part of a batch that was stored as one message.
        raw: the bytes as received, from which a retry is written, since the actor may have
            changed its arguments. None for a batch made in this process and for stored parts.
        outcome: the outcome, once it is decided.
        count_quarantine_run: counts the quarantine run on the broker, before the actor runs. Set if
            the message is a suspect: it was in flight when its worker died.
        alone: whether it must not share a batch, because it may kill its worker.
        size: the number of messages of the broker that it represents.
        started: monotonic seconds when the actor was called; None before that.
        took: seconds from the call of the actor to the settlement; None before the end, and if the
            actor was not called.
        is_async: whether it runs in the event loop, not in a worker thread.
        carry_on: set if a hook after the attempt could not send its message; to be called until
            it returns True, before the delivery is settled.
        goes_back: whether it returns to its queue instead of being settled.
        was_handed_back: whether its consumer was told that it is processed.
        fields: the actor's fields for the log line of the attempt.
        claim: its claim on an idempotency key, if it has a key.
        key_error: what the function that makes the key raised; the attempt fails with it.
        is_redelivered: whether it was delivered before and may have run, because its worker died
            or lost its connection.
        trace: the trace of the attempt, if the actor was called in a span.
        attempt_traceparent: the ``traceparent`` of the span of the attempt; None without a span.
        span: OpenTelemetry's span of the attempt, while it runs.
        hook_options: options of its message or actor that were set at any hook of the attempt, and
            by which middleware is called.
    """

    outcome: Outcome | None = None
    count_quarantine_run: Callable[[], None] | None = None
    started: float | None = None
    took: float | None = None
    alone = False
    is_async = False
    size = 1
    carry_on: Callable[[], bool] | None = None
    goes_back = False
    was_handed_back = False
    fields: dict[str, Any] | None = None
    claim: Claim | None = None
    key_error: Exception | None = None
    is_redelivered = False
    trace: TraceContext | None = None
    attempt_traceparent: str | None = None
    span: Any = None
    hook_options: tuple[str, ...] = ()

    def __init__(self, message: Message[Any], tag: Any, raw: bytes | None = None) -> None:
        super().__init__(message)
        # Copied: MessageProxy.__getattr__ is ten times slower and used ten times per message.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.args = message.args
        self.kwargs = message.kwargs
        self.options = message.options
        self.message_id = message.message_id
        #: The number of this attempt, from 1. Stored, since a failure counts in the options.
        self.attempt = 1 + _retries(message.options) if message.options else 1
        if message.options and message.options.get(REDELIVERED) is True:
            self.is_redelivered = True
        self.tag = tag
        self.raw = raw
        #: The length of ``raw`` in bytes; 0 for a part of a stored batch.
        self.raw_size = 0 if raw is None else len(raw)
        self._number = next(_numbers)

    @property
    def message(self) -> Message[Any]:
        """The decoded message."""
        return self._message

    def rewrite(self, message: Message[Any]) -> None:
        """Replace the message that the settlement writes; its id and its options stay."""
        self._message = message
        self.args, self.kwargs = message.args, message.kwargs

    @property
    def exception(self) -> BaseException | None:
        """The error of the actor or of Dramatiq, until the worker clears it."""
        return self._exception

    @property
    def awaits_quarantine_run(self) -> bool:
        """Whether it is a suspect whose quarantine run is not counted yet."""
        return self.count_quarantine_run is not None

    def begin_quarantine_run(self) -> None:
        """Count the quarantine run of a suspect on the broker; does nothing for other messages.

        Raises:
            BrokerError: the broker could not count it.
        """
        if self.count_quarantine_run is not None:
            self.count_quarantine_run()
            self.count_quarantine_run = None

    def end(self) -> None:
        """Note that the consumer was told that it is processed."""
        self.was_handed_back = True
        if self.took is None and self.started is not None:
            self.took = time.monotonic() - self.started

    @property
    def call(self) -> dict[str, Any]:
        """The item of this message in a batch: its keyword arguments.

        Positional arguments, which only stock producers send, are under ``args``.
        """
        if not self._message.args:
            return self._message.kwargs
        return {**self._message.kwargs, ARGS: list(self._message.args)}

    def clear_exception(self) -> None:
        # Dramatiq 1 deletes the attribute, which fails the second time.
        self._exception = None

    def __lt__(self, other: object) -> bool:
        # Dramatiq 1 compares messages in its work queue; by default, the newest would be first.
        return isinstance(other, Delivery) and self._number < other._number

    # Dramatiq's worker logs messages; the default text contains the arguments, personal data.
    def __str__(self) -> str:
        return f"{self._message.actor_name}({self._message.message_id})"

    __repr__ = __str__


class Batch(Delivery):
    """Many messages of one actor, processed by one call.

    Attributes:
        parts: the messages, in the order in which the actor gets them.
        part_outcomes: the outcome of each part, if they differ; None if ``outcome`` holds for
            all parts.
    """

    def __init__(
        self,
        message: Message[Any],
        tag: Any,
        parts: Sequence[Delivery],
        raw: bytes | None = None,
    ) -> None:
        super().__init__(message, tag, raw)
        self.parts = parts
        if raw is None:
            self.raw_size = sum([part.raw_size for part in parts])
        if tag is None:
            self.size = len(parts)
        self.part_outcomes: list[Outcome] | None = None

    @classmethod
    def of(cls, parts: Sequence[Delivery]) -> Batch:
        """Make a batch of messages that were fetched one by one."""
        message: Message[Any] = Message(
            queue_name=parts[0].queue_name,
            actor_name=parts[0].actor_name,
            args=(),
            kwargs={BATCH: [part.call if part.args else part.kwargs for part in parts]},
            # The part with the most attempts sets the count: otherwise a batch with new parts
            # could be retried for ever.
            options={RETRIES: max((part.attempt for part in parts if part.options), default=1) - 1},
        )
        batch = cls(message, None, parts)
        batch.alone = any(part.alone for part in parts)
        suspects = [part for part in parts if part.awaits_quarantine_run]

        def count_quarantine_run() -> None:
            for suspect in suspects:
                suspect.begin_quarantine_run()

        if suspects:
            batch.count_quarantine_run = count_quarantine_run
        return batch

    def copy(self) -> Batch:
        """Copy the batch; the parts are shared."""
        other = Batch(self.message, self.tag, self.parts)
        other.__dict__.update(self.__dict__)
        return other

    def release(self) -> None:
        """Drop the payloads of a settled batch.

        A worker thread keeps a reference to its last message until it gets another: 35 MB for each
        idle thread with batches of 10,000 events.
        """
        self.parts, self.part_outcomes, self.raw, self.count_quarantine_run = (), None, None, None
        self.kwargs = {BATCH: []}
        self._message = replace(self._message, kwargs=self.kwargs)

    @property
    def was_stored(self) -> bool:
        """Whether it came from the broker as one message, as a retried batch does."""
        return self.tag is not None


def _retries(options: dict[str, Any]) -> int:
    retries = options.get(RETRIES, 0)
    return retries if isinstance(retries, int) and retries >= 0 else 0
