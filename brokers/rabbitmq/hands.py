"""What of one consumer's queue the worker threads have in hand, and what they let go of.

The worker threads leave word in a deque, without a lock, and the receiving
thread looks there whenever it comes by; where it sleeps, it is woken.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque

from .session import Session

#: How long an acknowledgement may wait where jobs are short, in seconds.
_NAP = 0.002


class Tag:
    """A delivery tag, and the session in which it means something.

    Attributes:
        is_untried: it is a suspect's, whose trial has not begun.
    """

    __slots__ = ("hands", "is_untried", "number", "session")

    def __init__(self, hands: Hands, session: int, number: int) -> None:
        self.hands = hands
        self.session = session
        self.number = number
        self.is_untried = False

    @property
    def is_live(self) -> bool:
        """Whether its connection still stands; otherwise RabbitMQ delivers it again."""
        return self.session == self.hands.live

    def settle(self) -> None:
        """Acknowledge it; from any thread."""
        self.hands._let_go(self, self.number)

    def keep(self) -> None:
        """Nobody has it in hand any more, but it stays unacknowledged; from any thread."""
        self.hands._let_go(self, 0)

    def hand_back(self, at: float = 0.0) -> None:
        """Put it back on its queue; from any thread.

        Args:
            at: monotonic seconds before which it stays with us, though nobody has it in hand.
        """
        self.hands._let_go(self, -self.number, at)

    def replace(self, number: int) -> None:
        """Mean another delivery of the same message from now on."""
        self.number = number
        self.is_untried = False


class Hands:
    """See the module.

    Attributes:
        count: messages given out and not settled, as far as was collected.
        returned: messages settled, ever.
        live: the number of the session that stands; 0 where none does.
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

    def collect(self, session: Session | None) -> None:
        """Take over what was let go of; for the receiving thread."""
        gone = self._gone
        while gone:
            tag, number, at = gone.popleft()
            self.count -= 1
            self.returned += 1
            if tag is self.alone:
                self.alone = None
            if session is None or tag.session != session.number:
                continue
            if number > 0:
                session.acknowledge(number)
            elif number == 0:
                continue
            elif at:
                self._put_off.append((at, tag, -number))
            else:
                session.hand_back(-number)

    def next_due(self) -> float | None:
        """When the first of those that were put off is to be handed back, monotonic seconds."""
        return min((at for at, _, _ in self._put_off), default=None)

    def hand_back_due(self, session: Session, now: float) -> None:
        """Hand back those that were put off until ``now``."""
        if not self._put_off:
            return
        due = [one for one in self._put_off if one[0] <= now]
        self._put_off = [one for one in self._put_off if one[0] > now]
        for _, tag, number in due:
            if tag.session == session.number:
                session.hand_back(number)

    def sleep(self, session: Session, seconds: float) -> None:
        """Until something comes or is let go of, at most ``seconds``."""
        if session.is_busy and self.count:
            # To be woken by each of many thousand messages a second would cost more than
            # they do: threads that wake one another take turns instead of working.
            session.link.read(min(seconds, _NAP))
            return
        self._is_asleep = True
        try:
            # What was let go of just before the flag went up has woken nobody.
            session.link.read(0 if self._gone else seconds)
        finally:
            self._is_asleep = False

    def close(self) -> None:
        """Nothing is collected any more."""
        self.live = 0
        self._wakes.close()
        self._waker.close()
