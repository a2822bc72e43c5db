"""Messages that may have killed their worker: tried again, counted, at last dead-lettered.

RabbitMQ says of a message only that it was delivered before (``redelivered``;
quorum queues count, but count what was handed back in order as well). That
makes it a suspect, no more: its worker may have been stopped, have lost its
connection, have died of another message, or have had it only prefetched. So
a suspect gets trials, and a trial leaves its trace on the broker before the
actor is called:

1. A copy of the message, with ``x-formrelay-deaths`` one higher, is published to
   the *trial queue* of this process (``formrelay.trial.<queue>.<process>``),
   confirmed, and delivered back to this process, which now holds both.
2. The original is acknowledged. The message is now only in the trial queue,
   unacknowledged.
3. The actor runs, and its outcome settles the copy like any message. A copy that
   is retried, deferred or buried is written anew and carries no count: whatever
   the worker survives acquits.

When the process dies, RabbitMQ puts the copy back on the trial queue, whose
time-to-live of a second dead-letters it to the work queue, with its count.
What a crash leaves at each instant:

- before 1, and while its confirm is awaited: the original, as a suspect as it was;
  perhaps the copy too, so that the message runs twice, which at-least-once allows.
- between 1 and 2: both. As above; the guilty one kills during 3, so that it does
  not multiply.
- during 3: the copy alone, and its count says so.
- after the outcome's write, before the acknowledgement: both, as for any message.

Who is counted. Of ``max_crash_deliveries`` (3) the first is the unexplained
redelivery itself, and those in between run beside other messages: they may be
counted for another's deed. Only the last trial condemns, and it runs alone:
nothing else of its queue is in flight in the process. So a message is dead
only if its process died while it, alone, was running.

That the process died, and did not just lose its connection, is looked up then:
a process that lives consumes its trial queue, and comes back to it after each
loss. Whoever gets a message with a full count looks for that consumer for
``heartbeat_timeout``; where there is one, the message gets another last trial.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Any
from uuid import uuid4

from pika import spec

from ...middleware.delivery import Delivery
from ..contract import BrokerOptions
from ..errors import BrokerUnavailable
from . import codec
from .client import RabbitClient
from .errors import ChannelClosed
from .publisher import Publication
from .settling import Tag
from .subscription import TRIAL, Subscription

logger = logging.getLogger("formrelay.brokers")

_ACCESS_REFUSED = 403
#: Seconds after which a new quorum queue survives a server that is killed: RabbitMQ writes its
#: name to the disk about a second late. Until then no trial begins.
_REGISTERED_AFTER = 2.0
DEATHS = "x-formrelay-deaths"
TRIAL_QUEUE = "x-formrelay-trial"
#: What RabbitMQ adds to a message on its way through the trial queue.
_OF_RABBITMQ = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")


@dataclass(slots=True)
class Suspect:
    """A message that may have killed its worker.

    Attributes:
        deaths: how many workers have died that had it, at most.
        trial_queue: of the process that tried it last; None where none did.
        is_last_chance: whether the next trial runs alone, and condemns.
    """

    content: codec.Content
    deaths: int
    trial_queue: str | None
    is_last_chance: bool = False
    delivery: Delivery | None = None
    look_at: float = 0.0
    give_up_at: float = 0.0


@dataclass(slots=True)
class _Awaited:
    tag: Tag
    arrived: Event = field(default_factory=Event)


class Trials:
    """The suspects of one consumer. Its receiving thread looks, worker threads begin trials."""

    def __init__(self, client: RabbitClient, queue: str, options: BrokerOptions) -> None:
        self._client = client
        self._options = options
        self._queue = queue
        self._most = options.max_crash_deliveries
        self._awaited: dict[str, _Awaited] = {}
        self._is_used = False
        self._is_forbidden = False
        self._safe_at = 0.0
        #: The trial queues of this process, the one in use last.
        self._names = [self._new_name()]
        #: Each runs when nothing else of its queue is in flight.
        self.last_chances: deque[Delivery] = deque()
        #: Their count is full.
        self._judged: list[Suspect] = []

    @property
    def name(self) -> str:
        """The trial queue of this process."""
        return self._names[-1]

    def _new_name(self) -> str:
        return self._client.topology.trial_queue(self._queue, uuid4().hex[:12])

    def attach(self, subscription: Subscription, *, is_needed: bool = False) -> bool:
        """Consume the trial queue, if there is one, or is to be; whether there is one now.

        Raises:
            BrokerUnavailable: RabbitMQ did not answer; the next call does without the queue,
                unless it is needed, and then takes another one.
        """
        if subscription.has_trials:
            return True
        if self._is_forbidden or not (is_needed or self._is_used):
            return False
        if not self._is_used and self._client.topology.queue_type == "quorum":
            self._safe_at = self._client.clock.monotonic() + _REGISTERED_AFTER
        try:
            subscription.connection.ask(self._client.topology.trial(self._queue, self.name))
            subscription.subscribe_trials(self.name)
        except BrokerUnavailable:
            # A trial queue without a leader must not keep this consumer from its work queue.
            self._is_used = False
            self._names.append(self._new_name())
            raise
        except ChannelClosed as error:
            if error.code != _ACCESS_REFUSED:
                raise
            self._is_forbidden = True
            logger.warning(
                "messages that kill their workers are not counted: no right to declare the queue "
                "for that, see docs/brokers.md",
                extra={"queue": self._queue, "error_message": error.message},
            )
            return False
        self._is_used = True
        return True

    def detach(self, subscription: Subscription) -> None:
        """Delete the trial queue, unless it still holds messages.

        A quorum queue cannot be deleted on condition that it is empty: RabbitMQ would end the
        connection. It expires.
        """
        if self._is_used and self._client.topology.queue_type != "quorum":
            subscription.connection.call(spec.Queue.Delete(queue=self.name, if_empty=True))

    # -- suspicion -----------------------------------------------------------------------

    def suspect(self, content: codec.Content) -> Suspect | None:
        """The message as a suspect, if it is one."""
        headers: dict[str, Any] = {}
        if content.has_headers:
            headers = content.properties.headers or {}
        deaths, trial_queue = headers.get(DEATHS), headers.get(TRIAL_QUEUE)
        if not isinstance(deaths, int) or deaths < 1 or not isinstance(trial_queue, str):
            if not content.redelivered:
                return None
            deaths, trial_queue = 1, None
        if trial_queue in self._names:
            deaths -= 1  # this process has tried it, and lives
        suspect = Suspect(content, deaths, trial_queue)
        if deaths < self._most or trial_queue is None:
            self._acquit(suspect)
        return suspect

    def _acquit(self, suspect: Suspect) -> None:
        """Leave it one trial at least."""
        suspect.deaths = max(0, min(suspect.deaths, self._most - 1))
        suspect.is_last_chance = suspect.deaths + 1 >= self._most

    # -- judgement -----------------------------------------------------------------------

    def admit(self, suspect: Suspect) -> Delivery | None:
        """The delivery of a suspect that may run now; None where it has to wait."""
        if suspect.deaths >= self._most:
            self._adjourn(suspect)
            return None
        delivery = suspect.delivery
        assert delivery is not None
        delivery.tag.is_untried = True
        delivery.before_trial = lambda: self.begin(suspect, delivery.tag)
        if not suspect.is_last_chance:
            return delivery
        self.last_chances.append(delivery)
        return None

    def _adjourn(self, suspect: Suspect) -> None:
        """Its count is full: see for a while whether the process that tried it lives."""
        now = self._client.clock.monotonic()
        suspect.look_at = now
        suspect.give_up_at = now + self._options.heartbeat_timeout.total_seconds()
        self._judged.append(suspect)

    def next_look(self) -> float | None:
        """When :meth:`judge` is to be called; monotonic seconds."""
        return min((suspect.look_at for suspect in self._judged), default=None)

    def judge(self) -> Iterator[tuple[Delivery, int]]:
        """Look at the suspects whose time it is.

        Returns:
            The messages that are poison, each with the number of workers that it killed.
        """
        now = self._client.clock.monotonic()
        for suspect in [one for one in self._judged if one.look_at <= now]:
            suspect.look_at = now + 1
            if self._lives(suspect.trial_queue or ""):
                self._acquit(suspect)
                # There is time: it runs alone even if it has more than one trial left.
                suspect.is_last_chance = True
                self.admit(suspect)
            elif now >= suspect.give_up_at:
                assert suspect.delivery is not None
                yield suspect.delivery, suspect.deaths
            else:
                suspect.look_at = min(suspect.look_at, suspect.give_up_at)
                continue
            self._judged.remove(suspect)

    def forget(self) -> list[int]:
        """Forget the suspects that have not begun to run; returns their delivery tags."""
        tags = [delivery.tag.number for delivery in self.last_chances]
        tags += [suspect.content.number for suspect in self._judged]
        self.last_chances.clear()
        self._judged.clear()
        return tags

    def _lives(self, trial_queue: str) -> bool:
        connection = self._client.connect()
        try:
            found = connection.call(spec.Queue.Declare(queue=trial_queue, passive=True))
        except ChannelClosed:  # it is gone, and so is its process
            return False
        finally:
            connection.close()
        return bool(found.consumer_count)

    # -- trial ---------------------------------------------------------------------------

    def begin(self, suspect: Suspect, tag: Tag) -> None:
        """Put a counted copy in the message's place. For the thread that will run it.

        Raises:
            BrokerUnavailable, BrokerRefused: the trial must not begin.
        """
        Event().wait(max(0.0, self._safe_at - self._client.clock.monotonic()))
        properties = suspect.content.properties
        headers = dict(properties.headers or {})
        for name in _OF_RABBITMQ:
            headers.pop(name, None)
        headers |= {DEATHS: suspect.deaths + 1, TRIAL_QUEUE: self.name}
        key = uuid4().hex
        properties.headers, properties.correlation_id, properties.delivery_mode = headers, key, 2
        awaited = self._awaited[key] = _Awaited(tag)
        copy = Publication(
            self._queue, "", self.name, codec.encoded(properties), suspect.content.body
        )
        try:
            self._client.publish([copy])
            if not awaited.arrived.wait(self._options.connect_timeout.total_seconds()):
                raise BrokerUnavailable("expected RabbitMQ to deliver a message that it has taken")
        finally:
            self._awaited.pop(key, None)

    def sift(self, subscription: Subscription) -> None:
        """Take the copies that threads wait for from what has come, whatever else is held up."""
        if self._awaited:
            contents = subscription.connection.contents
            for content in list(contents):  # more may come while we ask
                if self.has_arrived(content, subscription):
                    contents.remove(content)

    def has_arrived(self, content: codec.Content, subscription: Subscription) -> bool:
        """Whether it is a copy that a thread waits for; then it takes the original's place."""
        if content.consumer != TRIAL.encode():
            return False
        awaited = self._awaited.get(content.properties.correlation_id or "")
        if awaited is None or awaited.tag.subscription != subscription.number:
            return False
        subscription.acknowledge(awaited.tag.number)
        # Not before RabbitMQ knows: were the process killed at once, as it may well be, the
        # original would come back beside its copy, each time.
        subscription.synchronise()
        awaited.tag.replace(content.number)
        awaited.arrived.set()
        return True
