"""Carries settlements out on RabbitMQ: publish, wait for the confirms, then acknowledge.

A crash in between repeats messages and loses none. RabbitMQ may also refuse a write:
the queue of dead letters is full, the message is too large, the user has no right to write. The
message stays unacknowledged and the receiving thread publishes it again with back-off; other
settlements do not wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...middleware.delivery import Delivery
from ..errors import BrokerRefused, BrokerUnavailable
from ..refused import Refused
from ..settlement import Replacement, Settlement, Write
from .errors import Interrupted, NotTaken

if TYPE_CHECKING:
    from .broker import RabbitBroker
    from .session import Session

#: What to write instead of a replacement that is too large.
Instead = Callable[[Replacement, Delivery, BrokerRefused], Iterable[tuple[Replacement, Delivery]]]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A replacement that is still to be written.

    Attributes:
        delivery: from which a smaller one can be made; None where this is the smallest.
    """

    replacement: Replacement
    delivery: Delivery | None


class Settler:
    """Carries out the settlements of one consumer.

    Worker threads call :meth:`carry_out`, the receiving thread everything else.

    Args:
        instead: makes smaller replacements of a replacement that is too large.
    """

    def __init__(self, broker: RabbitBroker, queue: str, instead: Instead) -> None:
        self._broker = broker
        self._queue = queue
        self._instead = instead
        #: Not written yet, or refused for the first time.
        self._new: deque[_Pending] = deque()
        # Of the receiving thread alone:
        self._refused: Refused[_Pending] = Refused(broker.clock, queue)

    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        """Write, then let go of the deliveries.

        Nothing is written for a delivery whose connection is lost: RabbitMQ delivers it again, and
        its outcome would be carried out twice.

        Raises:
            BrokerUnavailable: no delivery was acknowledged; call this method again.
        """
        ours = [one for one in settlement.replacements if _is_live(one)]
        not_ours = [one for one in settlement.replacements if not _is_live(one)]
        refused = self._write(ours)
        for one in ours:
            if id(one) in refused:
                left, error = refused[id(one)]
                self._new += self._smaller(_Pending(left, delivery), error)
                for tag in one.tags:
                    tag.keep()
            else:
                for tag in one.tags:
                    tag.settle()
        for one in not_ours:
            for tag in one.tags:
                tag.hand_back()
        for tag in settlement.done:
            tag.settle()

    def later(self, settlement: Settlement) -> None:
        """Carry replacements out with the next :meth:`write_pending`."""
        self._new += [_Pending(one, None) for one in settlement.replacements]

    def next_due(self) -> float | None:
        """When to call :meth:`write_pending`, monotonic seconds; None where nothing is pending."""
        return 0.0 if self._new else self._refused.next_due()

    def write_pending(self, session: Session, *, is_last: bool = False) -> None:
        """Write the pending replacements that are due.

        Args:
            is_last: also write replacements that are not due yet.
        """
        pending = [self._new.popleft() for _ in range(len(self._new))]
        pending += self._refused.take_due(is_last=is_last)
        # RabbitMQ delivers the others again.
        pending = [one for one in pending if _is_live(one.replacement)]
        if not pending:
            return
        try:
            refused = self._write([one.replacement for one in pending])
        except BrokerUnavailable as error:
            self._refused.add(pending, error)
            return
        left: list[_Pending] = []
        for one in pending:
            if id(one.replacement) not in refused:
                for tag in one.replacement.tags:
                    session.acknowledge(tag.number)
                continue
            replacement, error_of_it = refused[id(one.replacement)]
            left += self._smaller(replace(one, replacement=replacement), error_of_it)
        if left:
            self._refused.add(left, next(iter(refused.values()))[1])
        else:
            self._refused.settled()

    def _smaller(self, pending: _Pending, error: BrokerRefused) -> list[_Pending]:
        """The replacements to write instead of a replacement that was too large."""
        delivery = pending.delivery
        if delivery is None or not (isinstance(error, Interrupted) and error.is_too_large):
            return [pending]
        smaller = self._instead(pending.replacement, delivery, error)
        return [_Pending(one, None if of is delivery else of) for one, of in smaller]

    # -- publish -----------------------------------------------------------------------

    def _write(
        self, replacements: Sequence[Replacement]
    ) -> dict[int, tuple[Replacement, BrokerRefused]]:
        """Publish what replacements write.

        Returns:
            For each refused replacement, by its ``id()``: the part that is not written, and why.

        Raises:
            BrokerUnavailable
        """
        writes = [write for one in replacements for write in one.writes]
        errors = self._publish(writes) if writes else {}
        found: dict[int, tuple[Replacement, BrokerRefused]] = {}
        if errors:
            first = 0
            for one in replacements:
                places = range(first, first + len(one.writes))
                first = places.stop
                left = [place for place in places if place in errors]
                if left:
                    rest = replace(one, writes=[writes[place] for place in left])
                    found[id(one)] = rest, errors[left[0]]
        return found

    def _publish(self, writes: Sequence[Write]) -> dict[int, BrokerRefused]:
        """Publish; returns the error of each refused write, by its index."""
        try:
            self._broker.write(self._queue, writes)
        except NotTaken as error:
            return dict.fromkeys(error.refused, error)
        except Interrupted as error:
            left = error.unconfirmed
            if len(left) == 1:
                return {left[0]: error}
            # One of them was refused, and RabbitMQ does not say which.
            found = ((place, self._publish([writes[place]])) for place in left)
            return {place: why[0] for place, why in found if why}
        except BrokerRefused as error:
            return dict.fromkeys(range(len(writes)), error)
        return {}


def _is_live(replacement: Replacement) -> bool:
    return all(tag.is_live for tag in replacement.tags)
