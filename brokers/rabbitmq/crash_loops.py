"""Poison messages: messages whose worker processes die, counted and finally dead-lettered.

RabbitMQ reports only whether a message was delivered before (``redelivered``); the delivery count
of quorum queues also counts messages that were requeued in order. A redelivered message is
therefore only a suspect: its worker may have been stopped, have lost its connection, have
died of another message, or have only prefetched this message. A suspect gets *quarantine runs*,
which are counted on the broker before the actor is called:

1. A copy of the message, with ``x-formrelay-deaths`` increased by one, is published to the
   *quarantine queue* of this process (``formrelay.quarantine.<queue>.<process>``), confirmed, and
   delivered back to this process, which now has both copies in flight.
2. The original is acknowledged. The message is now only in the quarantine queue, in flight.
3. The actor runs, and its outcome settles the copy like any message. A copy that is retried,
   deferred or dead-lettered is published again without the count: a run that ends clears the
   message.

When the process dies, RabbitMQ requeues the copy to the quarantine queue, whose time-to-live of
one second dead-letters it to the work queue, with its count. After a crash there is:

- before step 1 is confirmed: the original, with its old count; perhaps the copy too, so that the
  message runs twice, which at-least-once allows.
- between steps 1 and 2: both copies. A poison message crashes in step 3 and does not multiply.
- during step 3: the copy alone, and its count includes this crash.
- after the outcome was written, before the acknowledgement: both, as for any message.

Which crashes count: of ``max_crash_deliveries`` (3), the first is the unexplained redelivery. Later
quarantine runs share the process with other messages, so another message may have caused their
crashes. Only the final run decides, and it runs alone: no other message of its queue is in flight
in the process. So a message is dead-lettered only if its process died while it ran alone.

A lost connection is not a death: a live process consumes its quarantine queue again after each
reconnect. A process that receives a message with a full count checks for ``heartbeat_timeout``
whether the quarantine queue named in the message has a consumer. If it has, the message gets
another final run.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Any
from uuid import uuid4

from pika import spec

from ...middleware.delivery import Delivery
from ..contract import BrokerOptions
from ..errors import BrokerUnavailable
from . import codec
from .client import RabbitClient
from .errors import ACCESS_REFUSED, ChannelClosed
from .publish_call import Publication
from .subscription import QUARANTINE_TAG, Subscription, Tag

logger = logging.getLogger("formrelay.brokers")

#: Seconds until a new quorum queue survives a server that is killed: RabbitMQ writes its name to
#: disk about one second late. No quarantine run starts before.
_REGISTERED_AFTER = 2.0
#: Seconds between two checks, while a thread waits for a copy, whether the connection is lost.
_CHECK_LIVE_SECONDS = 0.1
DEATHS_HEADER = "x-formrelay-deaths"
QUARANTINE_HEADER = "x-formrelay-quarantine"
#: Headers that RabbitMQ adds to a message that passes through the quarantine queue.
_RABBITMQ_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")


@dataclass(slots=True)
class Suspect:
    """A message that may have killed its worker.

    Attributes:
        deaths: maximum number of workers that died while they had it in flight.
        quarantine_queue: of the process that ran it last; None if it had no quarantine run.
        is_final: whether the next run is the final one, which runs alone.
        check_at: monotonic seconds of the next check whether that process is alive.
        give_up_at: monotonic seconds after which that process counts as dead.
    """

    content: codec.Content
    deaths: int
    quarantine_queue: str | None
    is_final: bool = False
    delivery: Delivery | None = None
    check_at: float = 0.0
    give_up_at: float = 0.0


class Quarantine:
    """The suspects of one consumer.

    Worker threads and the async runner call :meth:`start_run`, the receiving thread calls all other
    methods.

    Attributes:
        final_runs: deliveries, each of which runs when no other message of the queue is in flight.
    """

    def __init__(self, client: RabbitClient, queue: str, options: BrokerOptions) -> None:
        self._client = client
        self._options = options
        self._work_queue = queue
        self._max_deaths = options.max_crash_deliveries
        #: The tag of each original whose copy a thread waits for, by the copy's correlation id.
        self._awaited: dict[str, tuple[Tag, Event]] = {}
        self._is_declared = False
        self._is_forbidden = False
        self._safe_at = 0.0
        #: The quarantine queues of this process; the last name is in use.
        self._names = [self._new_name()]
        self.final_runs: deque[Delivery] = deque()
        #: Suspects with a full count, until it is known whether the process that ran them is dead.
        self._full: list[Suspect] = []

    @property
    def queue(self) -> str:
        """The quarantine queue of this process."""
        return self._names[-1]

    def _new_name(self) -> str:
        return self._client.topology.quarantine_queue(self._work_queue, uuid4().hex[:12])

    def attach(self, subscription: Subscription, *, is_needed: bool = False) -> bool:
        """Consume the quarantine queue if it exists; declare it first if it is needed.

        Returns:
            Whether the queue is consumed now.

        Raises:
            BrokerUnavailable: RabbitMQ did not answer; the next call with ``is_needed`` declares a
                queue with another name.
        """
        if subscription.has_quarantine:
            return True
        if self._is_forbidden or not (is_needed or self._is_declared):
            return False
        if not self._is_declared and self._client.topology.queue_type == "quorum":
            self._safe_at = self._client.clock.monotonic() + _REGISTERED_AFTER
        try:
            subscription.connection.try_call(
                self._client.topology.quarantine_declaration(self._work_queue, self.queue)
            )
            subscription.subscribe_quarantine(self.queue)
        except BrokerUnavailable:
            # A quarantine queue without a leader must not keep this consumer from its work queue.
            self._is_declared = False
            self._names.append(self._new_name())
            raise
        except ChannelClosed as error:
            if error.code != ACCESS_REFUSED:
                raise
            self._is_forbidden = True
            logger.warning(
                "cannot count the workers that a message kills: no right to declare the "
                "quarantine queue, see docs/brokers.md",
                extra={"queue": self._work_queue, "error_message": error.message},
            )
            return False
        self._is_declared = True
        return True

    def detach(self, subscription: Subscription) -> None:
        """Delete the quarantine queue, unless it still holds messages.

        A quorum queue expires instead: RabbitMQ ends the connection of a client that asks to
        delete a quorum queue only if it is empty.
        """
        if self._is_declared and self._client.topology.queue_type != "quorum":
            subscription.connection.call(spec.Queue.Delete(queue=self.queue, if_empty=True))

    # -- suspects ------------------------------------------------------------------------

    def suspect(self, content: codec.Content) -> Suspect | None:
        """Return the message as a suspect; None if it is not suspect."""
        headers: dict[str, Any] = {}
        if content.has_headers:
            headers = content.properties.headers or {}
        deaths, queue = headers.get(DEATHS_HEADER), headers.get(QUARANTINE_HEADER)
        if not isinstance(deaths, int) or deaths < 1 or not isinstance(queue, str):
            if not content.redelivered:
                return None
            deaths, queue = 1, None
        if queue in self._names:
            deaths -= 1  # this process ran it and is alive
        suspect = Suspect(content, deaths, queue)
        if deaths < self._max_deaths or queue is None:
            self._allow_run(suspect)
        return suspect

    def _allow_run(self, suspect: Suspect) -> None:
        """Reduce the count so that at least one run is left."""
        suspect.deaths = max(0, min(suspect.deaths, self._max_deaths - 1))
        suspect.is_final = suspect.deaths + 1 >= self._max_deaths

    def admit(self, suspect: Suspect) -> Delivery | None:
        """Return the suspect's delivery if it may run now; None if it has to wait."""
        if suspect.deaths >= self._max_deaths:
            suspect.check_at = now = self._client.clock.monotonic()
            suspect.give_up_at = now + self._options.heartbeat_timeout.total_seconds()
            self._full.append(suspect)
            return None
        delivery = suspect.delivery
        assert delivery is not None
        delivery.tag.awaits_quarantine_run = True
        delivery.count_quarantine_run = lambda: self.start_run(suspect, delivery.tag)
        if not suspect.is_final:
            return delivery
        self.final_runs.append(delivery)
        return None

    def next_check(self) -> float | None:
        """When to call :meth:`poison_messages` next, monotonic seconds; None if not at all."""
        return min((suspect.check_at for suspect in self._full), default=None)

    def poison_messages(self) -> Iterator[tuple[Delivery, int]]:
        """Check the suspects with a full count that are due.

        Yields:
            Each poison message, with the number of workers that it killed.
        """
        now = self._client.clock.monotonic()
        for suspect in [one for one in self._full if one.check_at <= now]:
            suspect.check_at = now + 1
            if self._is_consumed(suspect.quarantine_queue or ""):
                self._allow_run(suspect)
                suspect.is_final = True  # also where the limit would allow more runs
                self.admit(suspect)
            elif now >= suspect.give_up_at:
                assert suspect.delivery is not None
                yield suspect.delivery, suspect.deaths
            else:
                suspect.check_at = min(suspect.check_at, suspect.give_up_at)
                continue
            self._full.remove(suspect)

    def _is_consumed(self, queue: str) -> bool:
        """Whether a live process consumes a quarantine queue."""
        with closing(self._client.connect()) as connection:
            answers, _ = connection.try_calls([spec.Queue.Declare(queue=queue, passive=True)])
        # No answer: the queue is gone, and so is its process.
        return any(answer.consumer_count for answer in answers)

    def forget(self) -> list[int]:
        """Forget the suspects that have not started to run; returns their delivery tags."""
        tags = [delivery.tag.delivery_tag for delivery in self.final_runs]
        tags += [suspect.content.delivery_tag for suspect in self._full]
        self.final_runs.clear()
        self._full.clear()
        return tags

    # -- quarantine runs -----------------------------------------------------------------

    def start_run(self, suspect: Suspect, tag: Tag) -> None:
        """Replace the message by a copy that counts this run.

        Called by the worker thread that is about to run the message, or by the async runner's
        quarantine thread.

        Raises:
            BrokerUnavailable, BrokerRefused: the message must not run.
        """
        Event().wait(max(0.0, self._safe_at - self._client.clock.monotonic()))
        _check_live(tag)
        properties = suspect.content.properties
        headers = dict(properties.headers or {})
        for name in _RABBITMQ_HEADERS:
            headers.pop(name, None)
        headers |= {DEATHS_HEADER: suspect.deaths + 1, QUARANTINE_HEADER: self.queue}
        key = uuid4().hex
        properties.headers, properties.correlation_id, properties.delivery_mode = headers, key, 2
        _, has_arrived = self._awaited[key] = tag, Event()
        copy = Publication(
            self._work_queue, "", self.queue, codec.encoded(properties), suspect.content.body
        )
        try:
            self._client.publish([copy])
            deadline = time.monotonic() + self._options.connect_timeout.total_seconds()
            while not has_arrived.wait(_CHECK_LIVE_SECONDS):
                _check_live(tag)
                if time.monotonic() >= deadline:
                    raise BrokerUnavailable(
                        "expected RabbitMQ to deliver a message that it confirmed to "
                        f"{self.queue!r}, got nothing"
                    )
        finally:
            self._awaited.pop(key, None)

    def take_copies(self, subscription: Subscription) -> None:
        """Take the copies that threads wait for, also while other messages have to wait."""
        if self._awaited:
            contents = subscription.connection.contents
            for content in list(contents):  # taking a copy may receive more messages
                if self.take_copy(content, subscription):
                    contents.remove(content)

    def take_copy(self, content: codec.Content, subscription: Subscription) -> bool:
        """Let a copy that a thread waits for replace its original; False for other messages."""
        if content.consumer != QUARANTINE_TAG.encode():
            return False
        awaited = self._awaited.get(content.properties.correlation_id or "")
        if awaited is None or awaited[0].subscription is not subscription:
            return False
        tag, has_arrived = awaited
        subscription.acknowledge(tag.delivery_tag)
        # The actor must not start before RabbitMQ has the acknowledgement: if the process died at
        # once, the original would be redelivered in addition to its copy, after every crash.
        subscription.synchronise()
        tag.replace(content.delivery_tag)
        has_arrived.set()
        return True


def _check_live(tag: Tag) -> None:
    """Check that the connection of a suspect is open; its copy could not replace it otherwise.

    Raises:
        BrokerUnavailable: the connection was lost, and RabbitMQ redelivers the message.
    """
    if not tag.is_live:
        raise BrokerUnavailable(
            "the connection to RabbitMQ was lost before the message could run; it is redelivered"
        )
