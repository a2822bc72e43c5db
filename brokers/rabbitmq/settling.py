"""Carries settlements out on RabbitMQ: publish, wait for the confirms, then acknowledge.

A crash in between repeats messages and loses none. RabbitMQ may also refuse a write:
the queue of dead letters is full, the message is too large, the user has no right to write. The
message stays unacknowledged and the receiving thread publishes it again with back-off; other
settlements do not wait for it.

Worker threads put the delivery tags that they have settled into a deque, without a lock. The
receiving thread empties it whenever it comes by; where it sleeps, it is woken.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ...middleware.delivery import Delivery
from ..errors import BrokerRefused, BrokerUnavailable
from ..refused import Refused
from ..settlement import Replacement, Settlement, Write
from .client import RabbitClient
from .errors import Interrupted, NotTaken
from .subscription import Subscription

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

    Worker threads call :meth:`apply`, the receiving thread everything else.

    Args:
        instead: makes smaller replacements of a replacement that is too large.
    """

    def __init__(self, client: RabbitClient, queue: str, instead: Instead) -> None:
        self._client = client
        self._queue = queue
        self._instead = instead
        #: Not written yet, or refused for the first time.
        self._new: deque[_Pending] = deque()
        # Of the receiving thread alone:
        self._refused: Refused[_Pending] = Refused(client.clock, queue)

    def apply(self, settlement: Settlement, delivery: Delivery) -> None:
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

    def write_pending(self, subscription: Subscription, *, is_last: bool = False) -> None:
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
                    subscription.acknowledge(tag.number)
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
            self._client.write(self._queue, writes)
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


#: How long an acknowledgement may wait where jobs are short, in seconds.
_NAP = 0.002


class Tag:
    """A delivery tag, and the subscription in which it means something.

    Attributes:
        is_uncounted: the message is a suspect whose quarantine run has not been counted yet.
    """

    __slots__ = ("is_uncounted", "number", "subscription", "unacked")

    def __init__(self, unacked: Unacked, subscription: int, number: int) -> None:
        self.unacked = unacked
        self.subscription = subscription
        self.number = number
        self.is_uncounted = False

    @property
    def is_live(self) -> bool:
        """Whether its connection still stands; otherwise RabbitMQ delivers it again."""
        return self.subscription == self.unacked.live

    def settle(self) -> None:
        """Acknowledge it; from any thread."""
        self.unacked._let_go(self, self.number)

    def keep(self) -> None:
        """No thread works on it any more, but it stays unacknowledged; from any thread."""
        self.unacked._let_go(self, 0)

    def hand_back(self, at: float = 0.0) -> None:
        """Put it back on its queue; from any thread.

        Args:
            at: monotonic seconds before which it stays unacknowledged.
        """
        self.unacked._let_go(self, -self.number, at)

    def replace(self, number: int) -> None:
        """Mean another delivery of the same message from now on."""
        self.number = number
        self.is_uncounted = False


class Unacked:
    """The deliveries of one consumer that worker threads have, and those that they settled.

    Attributes:
        count: messages given out and not settled, as far as was collected.
        returned: messages settled, ever.
        live: the number of the subscription that stands; 0 where none does.
        alone: the tag beside which nothing may be given out.
    """

    def __init__(self) -> None:
        self.count = 0
        self.returned = 0
        self.live = 0
        self.alone: Tag | None = None
        self._is_asleep = False
        #: The tag, with its number as it was then; negative: handed back, at a time; 0: kept.
        self._gone: deque[tuple[Tag, int, float]] = deque()
        #: Those to be handed back, of the receiving thread alone.
        self._put_off: list[tuple[float, Tag, int]] = []
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)

    def fileno(self) -> int:
        """Readable when there is something to collect for a thread that sleeps."""
        return self._wakes.fileno()

    def clear(self) -> None:
        """Not readable any more."""
        with contextlib.suppress(OSError):
            os.read(self._wakes.fileno(), 4096)

    def _let_go(self, tag: Tag, number: int, at: float = 0.0) -> None:
        self._gone.append((tag, number, at))
        if self._is_asleep:
            self._is_asleep = False  # one of us is enough
            with contextlib.suppress(OSError):
                self._waker.send(b"!")

    def collect(self, subscription: Subscription | None) -> None:
        """Take over what was let go of; for the receiving thread."""
        gone = self._gone
        while gone:
            tag, number, at = gone.popleft()
            self.count -= 1
            self.returned += 1
            if tag is self.alone:
                self.alone = None
            if subscription is None or tag.subscription != subscription.number:
                continue
            if number > 0:
                subscription.acknowledge(number)
            elif number == 0:
                continue
            elif at:
                self._put_off.append((at, tag, -number))
            else:
                subscription.hand_back(-number)

    def next_due(self) -> float | None:
        """When the first of those that were put off is to be handed back, monotonic seconds."""
        return min((at for at, _, _ in self._put_off), default=None)

    def hand_back_due(self, subscription: Subscription, now: float) -> None:
        """Hand back those that were put off until ``now``."""
        if not self._put_off:
            return
        due = [one for one in self._put_off if one[0] <= now]
        self._put_off = [one for one in self._put_off if one[0] > now]
        for _, tag, number in due:
            if tag.subscription == subscription.number:
                subscription.hand_back(number)

    def sleep(self, subscription: Subscription, seconds: float) -> None:
        """Until something comes or is let go of, at most ``seconds``."""
        if subscription.is_busy and self.count:
            # To be woken by each of many thousand messages a second would cost more than
            # they do: threads that wake one another take turns instead of working.
            subscription.connection.read(min(seconds, _NAP))
            return
        self._is_asleep = True
        try:
            # What was let go of just before the flag went up has woken nobody.
            subscription.connection.read(0 if self._gone else seconds)
        finally:
            self._is_asleep = False

    def close(self) -> None:
        """Nothing is collected any more."""
        self.live = 0
        self._wakes.close()
        self._waker.close()
