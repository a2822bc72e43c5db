"""The consumer of one queue on RabbitMQ.

Its connection belongs to Dramatiq's consumer thread, and this object outlives
it: a connection that is lost is replaced here, sooner than Dramatiq would.

Threads: Dramatiq's consumer thread calls ``receive``; its worker threads call
``carry_out``. They publish what is to be retried or buried (confirmed) on
connections of their own, and leave acknowledgements to the consumer thread
(:mod:`.settling`), which sends all that has gathered as it comes by.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable
from threading import Event, Thread
from uuid import uuid4

from dramatiq import MessageProxy

from ...core.outcomes import Done
from ...middleware.delivery import Delivery
from ..base import RelayBroker
from ..consumer import RelayConsumer
from ..errors import BrokerRefused, BrokerUnavailable
from ..reconnecting import Reconnect
from ..settlement import Settlement, settled_tags
from . import codec
from .client import RabbitClient
from .crash_loops import Suspect, Trials
from .pauses import Watch
from .settling import Hands, Settler, Tag
from .subscription import MOST_PREFETCH, Session, Sizes

logger = logging.getLogger("formrelay.brokers")

#: How often it is measured how short the jobs are, in seconds.
_MEASURE_SECONDS = 0.05
#: A connection that has lasted so many seconds was a good one.
_LASTED = 1.0
#: With a larger prefetch it is counted in bytes too.
_MANY = 1_000
#: How long a worker that stops waits for the consumer of a pause before, in seconds.
_LAST_WORDS = 2.0


class RabbitConsumer(RelayConsumer):
    """See the module. One a queue and process.

    Args:
        limit: the most messages in hand.
        fixed_prefetch: never fetch more ahead than ``prefetch``.
    """

    def __init__(
        self,
        broker: RelayBroker,
        client: RabbitClient,
        queue_name: str,
        *,
        prefetch: int,
        timeout_ms: int,
        limit: int | None = None,
        fixed_prefetch: bool = False,
    ) -> None:
        super().__init__(broker, queue_name, prefetch=prefetch, timeout_ms=timeout_ms)
        self._client = client
        self._limit = limit
        self._fixed_prefetch = fixed_prefetch
        # Of a queue of batches: so many large messages would not fit into memory.
        self._is_wide = prefetch > _MANY
        self._sizes = Sizes()
        self._trials = Trials(client, queue_name, broker.options)
        # Of the receiving thread alone:
        self._session: Session | None = None
        self._sessions = 0
        self._reconnect = Reconnect(queue_name, broker.clock)
        self._connected_at, self._returned_then = 0.0, 0
        self._measured_at, self._measured = 0.0, 0
        self._pause = Watch(queue_name, broker.clock, client.connect)
        self._drainer: Thread | None = None
        # Between the threads:
        self._hands = Hands()
        self._settler = Settler(client, queue_name, self._smaller)

    # -- receive ---------------------------------------------------------------------

    def receive(self, timeout: float) -> Delivery | None:
        clock = self.broker.clock
        deadline = clock.monotonic() + timeout
        while True:
            try:
                delivery = self._next()
                if delivery is not None:
                    return delivery
                remaining = max(0.0, deadline - clock.monotonic())
                if self._session is not None:
                    self._exchange(remaining)
                elif not self._connect():
                    Event().wait(min(remaining, self._reconnect.seconds))
            except (BrokerUnavailable, BrokerRefused) as error:
                self._failed(error)
                if self._session is not None:
                    # Not our connection, but what was to be written: it is tried again, and
                    # Dramatiq's thread looks at its own state meanwhile.
                    remaining = max(0.0, deadline - clock.monotonic())
                    Event().wait(min(remaining, self._reconnect.seconds))
                    return None
            if not self._has_work() and clock.monotonic() >= deadline:
                return None

    def _has_work(self) -> bool:
        session = self._session
        return (
            session is not None
            and bool(session.link.contents or self._trials.last_chances)
            and not self._must_hold()
        )

    def _next(self) -> Delivery | None:
        session = self._session
        if session is None:
            return None
        contents = session.link.contents
        while not self._must_hold():
            if self._trials.last_chances:
                delivery = self._trials.last_chances.popleft()
                self._hands.alone = delivery.tag
            elif contents:
                # Taken away when that is done: what is to be written may fail.
                taken = self._take(session, contents[0])
                contents.popleft()
                if taken is None:
                    continue
                delivery = taken
            else:
                break
            self._hands.count += 1
            return delivery
        return None

    def _must_hold(self) -> bool:
        """Whether nothing is to be given out now."""
        if self.is_closing or self.broker.is_stopping:
            return True
        allowed = self.allowed()
        if (
            self._limit is None
            and allowed is None
            and self._hands.alone is None
            and not self._trials.last_chances
        ):
            return False
        self._hands.collect(self._session)
        if allowed is not None and self._hands.count >= allowed:
            return True
        if self._hands.alone is not None:
            return True
        if self._trials.last_chances:  # it runs when all else is finished
            return self._hands.count > 0
        return self._limit is not None and self._hands.count >= self._limit

    def _take(self, session: Session, content: codec.Content) -> Delivery | None:
        if self._is_wide:
            self._sizes.saw(len(content.body))
        if content.redelivered or content.has_headers:
            if self._trials.has_arrived(content, session):
                return None
            suspect = self._trials.suspect(content)
            if suspect is not None and self._trials.attach(session, is_needed=True):
                return self._suspected(session, suspect)
        return self._decoded(session, content)

    def _decoded(self, session: Session, content: codec.Content) -> Delivery | None:
        tag = Tag(self._hands, session.number, content.number)
        id = content.message_id or f"amqp-{uuid4()}"
        delivery = self.decoded(content.body, tag, id)
        if isinstance(delivery, Settlement):
            self._settler.later(delivery)
            return None
        return delivery

    # -- suspects --------------------------------------------------------------------

    def _suspected(self, session: Session, suspect: Suspect) -> Delivery | None:
        delivery = self._decoded(session, suspect.content)
        if delivery is None:
            return None
        suspect.delivery = delivery
        return self._trials.admit(suspect)

    # -- exchange --------------------------------------------------------------------

    def _connect(self) -> bool:
        if self._reconnect.seconds:
            return False
        link = self._client.connect()
        try:
            if self._sessions or self._reconnect.failures:
                self._client.declared.forget()  # it may have come back without them
            self._client.declared.ensure(link, [self.queue_name])
            self._sessions += 1
            session = Session(link, self.queue_name, number=self._sessions, prefetch=self.prefetch)
            self._pause.look(link)
            self._follow(session)
            self._trials.attach(session)
            link.wake_by(self._hands)
        except BaseException:
            link.abort()
            raise
        self._session, self._hands.live = session, session.number
        self._connected_at = self.broker.clock.monotonic()
        self._returned_then = self._hands.returned
        return True

    def _follow(self, session: Session) -> None:
        """Consume as many messages at a time as are wanted, or none."""
        wanted = self._wanted()
        if wanted == (session.prefetch if session.is_started else 0):
            return
        if session.is_started:
            self._stop(session)
        if wanted:
            session.prefetch = wanted
            session.start()

    def _wanted(self) -> int:
        """How many messages may be in hand; 0 while the queue is left alone."""
        if self._pause.is_paused:
            return 0
        allowed = self.allowed()
        if allowed is not None:
            return allowed
        most = min(self.prefetch * self.stretch(), MOST_PREFETCH)
        return min(most, self._sizes.most) if self._is_wide else most

    def _stop(self, session: Session) -> None:
        """Consume no more, and hand back what was not given out."""
        for number in self._trials.forget():
            session.hand_back(number)
        self._hands.collect(session)
        self._hands.hand_back_due(session, math.inf)
        session.stop()

    def _exchange(self, timeout: float) -> None:
        """Send what is settled, take in what has come; where nothing has, wait for it."""
        session = self._session
        assert session is not None
        clock = self.broker.clock
        look_at = self._trials.next_look()
        if look_at is not None:
            if look_at <= clock.monotonic():
                for delivery, deaths in self._trials.judge():
                    self._settler.later(self.crash_loop(delivery, deaths))
            look_at = self._trials.next_look()
            if look_at is not None:
                timeout = min(timeout, max(0.0, look_at - clock.monotonic()))
        if self._pause.look_at <= clock.monotonic():
            self._pause.look(session.link)
        self._follow(session)
        timeout = min(timeout, max(0.0, self._pause.look_at - clock.monotonic()))
        self._hands.collect(self._session)
        self._hands.hand_back_due(session, clock.monotonic())
        self._settler.write_pending(session)
        for due in (self._hands.next_due(), self._settler.next_due()):
            if due is not None:
                timeout = min(timeout, max(0.0, due - clock.monotonic()))
        self._fetch_ahead(session)
        session.flush(all=False)
        session.link.read(0)
        self._trials.sift(session)
        if not self._has_work():
            self._sleep(session, timeout)
            self._trials.sift(session)
        if session.link.is_cancelled:
            session.link.abort()
            raise BrokerUnavailable(
                f"the queue {self.queue_name!r} on RabbitMQ at {session.link.where} was deleted; "
                "it is declared again"
            )

    def _sleep(self, session: Session, timeout: float) -> None:
        self._hands.collect(self._session)
        session.flush(all=True)
        if self._has_work():
            return
        self._hands.sleep(session, timeout)

    def _fetch_ahead(self, session: Session) -> None:
        if self._fixed_prefetch:
            return
        now = self.broker.clock.monotonic()
        elapsed = now - self._measured_at
        if elapsed > _MEASURE_SECONDS:
            session.fetch_ahead((self._hands.returned - self._measured) / elapsed)
            self._measured, self._measured_at = self._hands.returned, now

    def _failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        session = self._session
        lasted = self.broker.clock.monotonic() - self._connected_at
        served = session is not None and (
            lasted > _LASTED or self._hands.returned > self._returned_then
        )
        if session is not None and not session.link.is_open:
            # All that was not acknowledged is delivered again.
            self._session, self._hands.live = None, 0
            self._trials.forget()
            self._hands.alone = None
        if served:
            self._reconnect.succeeded()
        self._reconnect.failed(error)

    # -- settle ------------------------------------------------------------------------

    def settles_at_once(self, delivery: Delivery) -> bool:
        return isinstance(delivery.outcome, Done)

    def carry_out(self, settlement: Settlement, delivery: Delivery) -> None:
        due = settlement.due if settlement.replacements else None
        if due is not None and any(tag.is_untried for tag in settled_tags(settlement)):
            # Its trial could not begin. Written anew it would lose its count; handed back now, it
            # would come again at once.
            left = max(0.0, due / 1000 - self.broker.clock.time())
            for tag in settled_tags(settlement):
                tag.hand_back(self.broker.clock.monotonic() + left)
            return
        self._settler.carry_out(settlement, delivery)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back what was not started."""
        for message in messages:
            assert isinstance(message, Delivery)
            message.tag.hand_back()

    # -- close -------------------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more; close when what was begun is settled.

        Dramatiq closes the consumer of a paused worker as well, which then
        finishes its messages: were the connection closed under them, they
        would be delivered and run a second time.
        """
        self.finish()
        if self._drainer is not None:
            # Closed for good, after a pause: what it still has is settled or handed back by now.
            self._drainer.join(_LAST_WORDS)
            return
        session, self._session = self._session, None
        if session is None:
            self._hands.close()
            return
        try:
            self._stop(session)
        except (BrokerUnavailable, BrokerRefused):
            self._hands.close()  # whatever was not acknowledged comes back
            return
        self._session = session
        self._hands.collect(self._session)
        if self._hands.count:
            self._drainer = Thread(target=self._drain, name="formrelay-drain", daemon=True)
            self._drainer.start()
        else:
            self._drain()

    def _drain(self) -> None:
        session = self._session
        assert session is not None
        with contextlib.suppress(BrokerUnavailable, BrokerRefused):
            while self._hands.count:
                self._sleep(session, 0.2)
                self._trials.sift(session)
                while session.link.contents:
                    session.hand_back(session.link.contents.popleft().number)
                self._hands.collect(self._session)
            self._settler.write_pending(session, is_last=True)
            session.flush(all=True)
            self._trials.detach(session)
        self._session = None
        self._hands.close()
        session.link.close()
