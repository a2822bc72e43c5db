"""Applies settlements on RabbitMQ: publish, wait for the confirms, then acknowledge.

A crash in between repeats messages and loses none. RabbitMQ may refuse a write: the dead-letter
queue is full, the message is too large, or the user has no right to write. The message then stays
in flight and the receiving thread publishes it again with back-off; other settlements do not wait
for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ...middleware.delivery import Delivery
from ..errors import BrokerRefused, BrokerUnavailable
from ..retrying import Refused
from ..settlement import Replacement, Settlement, Write
from .client import RabbitClient
from .errors import PartlyRefused, PublishInterrupted

#: Splits or shrinks a replacement that is too large.
Shrink = Callable[[Replacement, Delivery, BrokerRefused], Iterable[tuple[Replacement, Delivery]]]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A replacement that is not written yet.

    Attributes:
        delivery: the delivery to make a smaller replacement from; None if there is no smaller one.
    """

    replacement: Replacement
    delivery: Delivery | None


class Settler:
    """Applies the settlements of one consumer.

    Worker threads and the async runner call :meth:`apply`, the receiving thread calls all other
    methods.
    """

    def __init__(self, client: RabbitClient, queue: str, shrink: Shrink) -> None:
        self._client = client
        self._queue = queue
        self._shrink = shrink
        #: Replacements to write: not tried yet, or refused once in :meth:`apply`.
        self._new: deque[_Pending] = deque()
        # Used by the receiving thread alone:
        self._refused: Refused[_Pending] = Refused(client.clock, queue)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
        """Publish the replacements, then release the delivery tags.

        A delivery whose connection is lost is not replaced: RabbitMQ delivers it again, and its
        outcome would be applied twice.

        Raises:
            BrokerUnavailable: no delivery was acknowledged; call this method again.
        """
        if settlement.replacements:
            live: list[_Pending] = []
            lost: list[_Pending] = []
            for replacement in settlement.replacements:
                pending = _Pending(replacement, delivery)
                (live if _is_live(replacement) else lost).append(pending)
            for pending, unwritten in zip(live, self._write(live)[0], strict=True):
                self._new += unwritten or ()
                for tag in pending.replacement.tags:
                    if unwritten is None:
                        tag.acknowledge()
                    else:
                        tag.keep()
            for pending in lost:
                for tag in pending.replacement.tags:
                    tag.requeue()
        for tag in settlement.done:
            tag.acknowledge()

    def apply_later(self, settlement: Settlement) -> None:
        """Let the next :meth:`write_pending` apply the replacements."""
        self._new += [_Pending(replacement, None) for replacement in settlement.replacements]

    def next_due(self) -> float | None:
        """When to call :meth:`write_pending`, monotonic seconds; None if nothing is pending."""
        return 0.0 if self._new else self._refused.next_due()

    def write_pending(self, *, is_last: bool = False) -> None:
        """Write the pending replacements that are due.

        Args:
            is_last: also write replacements that are not due yet.
        """
        found = [self._new.popleft() for _ in range(len(self._new))]
        found += self._refused.take_due(is_last=is_last)
        # RabbitMQ redelivers the messages of lost connections.
        live = [pending for pending in found if _is_live(pending.replacement)]
        if not live:
            return
        try:
            unwritten, refusal = self._write(live)
        except BrokerUnavailable as error:
            self._refused.add(live, error)
            return
        for pending, its_unwritten in zip(live, unwritten, strict=True):
            if its_unwritten is None:
                for tag in pending.replacement.tags:
                    tag.subscription.acknowledge(tag.delivery_tag)
        if refusal is None:
            self._refused.settled()
        else:
            self._refused.add([*chain.from_iterable(filter(None, unwritten))], refusal)

    def _write(
        self, pending: Sequence[_Pending]
    ) -> tuple[list[list[_Pending] | None], BrokerRefused | None]:
        """Publish the messages of replacements.

        Returns:
            For each replacement, the replacements to write next time, or None if all its messages
            are written; and the first error, None if there is none.

        Raises:
            BrokerUnavailable
        """
        writes = [write for each in pending for write in each.replacement.writes]
        errors = self._publish(writes) if writes else {}
        unwritten: list[list[_Pending] | None] = []
        first = 0
        for each in pending:
            places = range(first, first + len(each.replacement.writes))
            first = places.stop
            refused = [place for place in places if place in errors]
            if refused:
                remaining = replace(each.replacement, writes=[writes[place] for place in refused])
                again = _Pending(remaining, each.delivery)
                unwritten.append(self._smaller(again, errors[refused[0]]))
            else:
                unwritten.append(None)
        return unwritten, next(iter(errors.values()), None)

    def _smaller(self, pending: _Pending, error: BrokerRefused) -> list[_Pending]:
        """Return the replacements to write next time, smaller if this replacement was too large."""
        delivery = pending.delivery
        if delivery is None or not (isinstance(error, PublishInterrupted) and error.is_too_large):
            return [pending]
        return [
            _Pending(smaller, None if its_delivery is delivery else its_delivery)
            for smaller, its_delivery in self._shrink(pending.replacement, delivery, error)
        ]

    def _publish(self, writes: Sequence[Write]) -> dict[int, BrokerRefused]:
        """Publish; returns the error of each refused write, by its index."""
        try:
            self._client.write(self._queue, writes)
        except PartlyRefused as error:
            return dict.fromkeys(error.refused, error)
        except PublishInterrupted as error:
            places = error.unconfirmed
            if len(places) == 1:
                return {places[0]: error}
            # RabbitMQ does not say which message it refused: publish them one by one.
            found = ((place, self._publish([writes[place]])) for place in places)
            return {place: errors[0] for place, errors in found if errors}
        except BrokerRefused as error:
            return dict.fromkeys(range(len(writes)), error)
        return {}


def _is_live(replacement: Replacement) -> bool:
    return all(tag.is_live for tag in replacement.tags)
