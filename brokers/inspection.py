"""What operators ask of a broker, in the same words for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dramatiq import Message

from ..core.failure import Failure
from ..middleware.delivery import FAILURE


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds in each state.

    A state that a broker cannot count is None ('not available on this
    broker'), never a guess.
    """

    queue: str
    waiting: int
    scheduled: int | None
    in_flight: int | None
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that will not be tried again by itself.

    Attributes:
        id: its id on the broker; of our own messages it is the ``message_id``.
        failure: why; None where something else than formrelay buried it.
    """

    queue: str
    id: str
    message: Message[Any]
    failure: Failure | None

    @classmethod
    def of(cls, queue: str, id: str, message: Message[Any]) -> DeadLetter:
        """The dead letter in ``message``."""
        try:
            failure = Failure.from_json(message.options[FAILURE])
        except (KeyError, TypeError, ValueError):
            failure = None
        return cls(queue, id, message, failure)


class Inspector(Protocol):
    """Looks at queues without consuming or reordering them."""

    def counts(self, queue: str) -> QueueCounts:
        """How many messages are in each state."""

    def dead_letters(self, queue: str, *, limit: int = 100) -> Iterator[DeadLetter]:
        """The dead letters of a queue, the oldest first."""

    def replay(self, queue: str, id: str) -> bool:
        """Put a dead letter back on its queue, attempts at zero; False where there is none."""

    def delete_dead(self, queue: str, id: str) -> bool:
        """Delete a dead letter; False where there is none."""
