"""A message in hand: what the middleware and the consumers know of it.

Dramatiq's worker passes a ``MessageProxy`` around; ours also carries the
outcome that :mod:`.outcomes` decided and the handle by which the consumer
that yielded it settles it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from dramatiq import Message, MessageProxy

from ..core.outcomes import Outcome
from ..state.idempotency import Claim

#: The option that counts retries; stock Dramatiq uses the same one.
RETRIES = "retries"
#: The option that holds the record of the last failure.
FAILURE = "failure"
#: The keyword argument by which a batch reaches its actor.
BATCH = "batch"
#: The key of a part's positional arguments.
ARGS = "args"

#: Numbers deliveries in the order in which they came.
_numbers = count()


class Delivery(MessageProxy):
    """One message, fetched and not yet settled.

    Attributes:
        tag: the consumer's handle; None for a part of a batch that was stored as one message.
        raw: its bytes as they came, from which it is written again: an actor may have changed
            what it was given. None for a batch that was made here, and for stored parts.
        outcome: what became of it, once that is decided.
        before_trial: called before the actor runs, where the message is
            suspected of having killed its worker.
        alone: whether it may share no call with others, as one of them may kill its worker.
        size: how many messages of the broker it stands for.
        started: monotonic seconds at which the actor was called, once it was.
        is_async: whether it runs in the event loop, not in a worker thread.
        carry_on: set where a hook after the attempt could not send its message: to be called
            until it returns True, before the delivery is settled.
        goes_back: whether it goes back to its queue instead of being settled.
        fields: what the actor has to say in the attempt's log line.
        claim: its hold on its idempotency key, where it has one.
    """

    outcome: Outcome | None = None
    before_trial: Callable[[], None] | None = None
    started: float | None = None
    alone = False
    is_async = False
    size = 1
    carry_on: Callable[[], bool] | None = None
    goes_back = False
    fields: dict[str, Any] | None = None
    claim: Claim | None = None

    def __init__(self, message: Message[Any], tag: Any, raw: bytes | None = None) -> None:
        super().__init__(message)
        # Found through MessageProxy.__getattr__ as well, ten times slower and ten times a message.
        self.queue_name = message.queue_name
        self.actor_name = message.actor_name
        self.args = message.args
        self.kwargs = message.kwargs
        self.options = message.options
        self.message_id = message.message_id
        self.tag = tag
        self.raw = raw
        #: Bytes as they came; 0 for a part of a stored batch.
        self.raw_size = 0 if raw is None else len(raw)
        self._number = next(_numbers)

    @property
    def message(self) -> Message[Any]:
        """The message itself, as it was decoded."""
        return self._message

    @property
    def exception(self) -> BaseException | None:
        """What the actor (or Dramatiq) raised, until the worker clears it."""
        return self._exception

    @property
    def is_untried(self) -> bool:
        """Whether it is a suspect whose trial has not begun."""
        return self.before_trial is not None

    def begin_trial(self) -> None:
        """Count a suspect's trial, before its actor runs.

        Raises:
            BrokerError: it could not be counted.
        """
        if self.before_trial is not None:
            self.before_trial()
            self.before_trial = None

    @property
    def call(self) -> dict[str, Any]:
        """What an actor of batches gets of this message: its keyword arguments.

        Positional ones, which only a stock producer sends, stand under ``args``.
        """
        if not self._message.args:
            return self._message.kwargs
        return {**self._message.kwargs, ARGS: list(self._message.args)}

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        retries = self._message.options.get(RETRIES, 0)
        return retries + 1 if isinstance(retries, int) and retries >= 0 else 1

    def clear_exception(self) -> None:
        # Dramatiq 1 deletes it, and can do so once.
        self._exception = None

    def __lt__(self, other: object) -> bool:
        # Dramatiq 1's worker sorts its queue by messages too; by themselves they would
        # compare so that the newest comes first.
        return isinstance(other, Delivery) and self._number < other._number

    # Dramatiq's worker logs messages with their arguments, which are people's answers.
    def __str__(self) -> str:
        return f"{self._message.actor_name}({self._message.message_id})"

    __repr__ = __str__


class Batch(Delivery):
    """Many messages of one actor as one call.

    Attributes:
        parts: the messages, in the order in which the actor gets them.
        part_outcomes: one for each part where the parts fared differently;
            otherwise None, and ``outcome`` holds for all of them.
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
        """A batch of messages that were fetched one by one."""
        message: Message[Any] = Message(
            queue_name=parts[0].queue_name,
            actor_name=parts[0].actor_name,
            args=(),
            kwargs={BATCH: [part.call if part.args else part.kwargs for part in parts]},
            # The most tried part sets the count, so that a batch cannot be retried
            # for ever because it always meets a fresh part.
            options={RETRIES: max((one.attempt for one in parts if one.options), default=1) - 1},
        )
        batch = cls(message, None, parts)
        batch.alone = any(part.alone for part in parts)
        suspects = [part for part in parts if part.is_untried]

        def before_trial() -> None:
            for suspect in suspects:
                suspect.begin_trial()

        if suspects:
            batch.before_trial = before_trial
        return batch

    def copy(self) -> Batch:
        """Copy the batch; the parts are shared."""
        other = Batch(self.message, self.tag, self.parts)
        other.__dict__.update(self.__dict__)
        return other

    def release(self) -> None:
        """Drop the payloads of a settled batch.

        A worker thread keeps a reference to its last message until it gets the next one. With
        10,000 events a batch, that is 35 MB for each idle thread.
        """
        self.parts, self.part_outcomes, self.raw, self.before_trial = (), None, None, None
        self.kwargs = {BATCH: []}
        self._message = replace(self._message, kwargs=self.kwargs)

    def attempt_of(self, part: Delivery) -> int:
        """The number of this attempt for one part."""
        return self.attempt if self.was_stored else part.attempt

    @property
    def was_stored(self) -> bool:
        """Whether it came from the broker as one message (a retried batch is frozen)."""
        return self.tag is not None
