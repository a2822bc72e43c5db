"""Two workers on a queue: a worker may be frozen while the other takes over its messages.

In any order of events, every accepted message is done, waiting, scheduled, in flight or dead. It
disappears only after a worker has settled it as done.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pika import spec

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.envelope import decode, decode_batch, is_frozen
from formrelay.brokers.errors import BrokerUnavailable
from formrelay.brokers.inspection import DeadFilter
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.errors import PartlyRefused
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkTransient
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Outcome, Retry
from formrelay.middleware.delivery import Batch, Delivery

#: No message is dead-lettered as poison here: the workers are frozen often.
OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(minutes=1), max_crash_deliveries=1_000)
NOW = timedelta(0)
FAILURE = Failure.of(SinkTransient("away"), reason=Reason.ATTEMPTS_EXHAUSTED, attempt=1, now=0)
RETRY, DEFER, DEAD = Retry(NOW, FAILURE), Defer(NOW, "busy"), Dead(FAILURE)
OUTCOMES = st.sampled_from([DONE, RETRY, DEFER, DEAD])
PLACES = st.integers(0, 7)
WORKERS = st.sampled_from([0, 1])
#: Messages with different ids, or all with one id.
IDS = st.sampled_from(["", "same"])


def numbers_in(bodies: Iterable[bytes]) -> Counter[int]:
    """Numbers of the messages in bodies, including the parts of frozen batches."""
    found: Counter[int] = Counter()
    for body in bodies:
        message = decode(body, queue_name="q", job_types={})
        parts: Sequence[Any] = [message]
        if is_frozen(message):
            parts = decode_batch(message, "tag").parts
        found.update(part.kwargs["number"] for part in parts)
    return found


class Site(ABC):
    """A queue on a broker, and the two workers on it."""

    brokers: list[Any]
    consumers: list[Any]

    def __init__(self, url: str, queue: str) -> None:
        self.url, self.queue = url, queue

    @abstractmethod
    def make(self) -> RelayBroker: ...

    @abstractmethod
    def clear(self) -> None:
        """Remove everything of the previous example."""

    def begin(self, *, batches: bool) -> None:
        self.batches = batches
        self.sender = self.worker()
        self.clear()
        self.brokers = [self.worker(), self.worker()]
        self.consumers = [self.consume(broker) for broker in self.brokers]

    def worker(self) -> RelayBroker:
        broker = self.make()
        broker.declare_queue(self.queue)
        options: dict[str, Any] = {"batch_size": 3, "batch_wait": NOW} if self.batches else {}
        dramatiq.actor(
            lambda **_: None, actor_name="act", broker=broker, queue_name=self.queue, **options
        )
        return broker

    def consume(self, broker: RelayBroker) -> Any:
        return broker.consume(self.queue, prefetch=4, timeout=0)

    def inner(self, worker: int) -> Any:
        consumer = self.consumers[worker]
        return getattr(consumer, "_inner", consumer)

    def fetch(self, worker: int) -> list[Delivery]:
        found = []
        while (delivery := self.consumers[worker].receive(self.patience)) is not None:
            # As if the quarantine run of a suspect had begun.
            for one in (delivery, *getattr(delivery, "parts", ())):
                one.count_quarantine_run = None
                self.begun(one)
            found.append(delivery)
        return found

    patience = 0.0

    def begun(self, delivery: Delivery) -> None:  # noqa: B027 - nothing to do on Redis
        """The quarantine run of a suspect has begun."""

    def flush(self, worker: int) -> None:  # noqa: B027 - nothing to do on RabbitMQ
        """Send a worker's settlements to the broker."""

    @abstractmethod
    def freeze(self, worker: int, *, notices: bool) -> None:
        """Freeze a worker for so long that other workers recover its messages."""

    @abstractmethod
    def lose_answer(self, worker: int) -> None:
        """Lose the broker's next reply to a worker, after the broker has executed the call."""

    def settle(self, worker: int, delivery: Delivery, outcome: Outcome) -> None:
        while True:
            try:
                self.consumers[worker].settle(delivery, outcome)
            except BrokerUnavailable:
                continue  # as Dramatiq's worker threads do
            return

    def check(self) -> Counter[int] | None:
        """Numbers of all messages on the broker; fails if its keys are inconsistent."""
        return None

    @abstractmethod
    def drain(self) -> Counter[int]:
        """Numbers of all messages on the broker after both workers have ended."""

    def close(self) -> None:
        for broker in (self.sender, *self.brokers):
            broker.close()


class RedisSite(Site):
    def make(self) -> RelayBroker:
        return RedisBroker(self.url, options=OPTIONS)

    def clear(self) -> None:
        self.sender.client.flushall()  # type: ignore[attr-defined]

    def freeze(self, worker: int, *, notices: bool) -> None:
        broker, other = self.brokers[worker], self.brokers[1 - worker]
        broker.client.zadd(broker.keys.heartbeats(), {broker.commands.worker_id: 1}, xx=True)
        other.commands.recover(self.queue)
        if notices:  # the clock of a suspended machine may stop too
            self.inner(worker)._exchanged_at = float("-inf")

    def flush(self, worker: int) -> None:
        self.inner(worker)._flush()

    def lose_answer(self, worker: int) -> None:
        commands = self.brokers[worker].commands

        def run(script: str, *arguments: Any) -> Any:
            answer = type(commands).run(commands, script, *arguments)
            if script == "exchange":
                del commands.run
                raise BrokerUnavailable("the answer was lost")
            return answer

        commands.run = run

    def check(self) -> Counter[int]:
        broker = self.sender
        assert isinstance(broker, RedisBroker)
        client, keys, queue = broker.client, broker.keys, self.queue
        bodies = client.hgetall(keys.bodies(queue))
        index: set[bytes] = set()
        for list_ in (keys.waiting(queue), *keys.priority_lists(queue)):
            index.update(client.lrange(list_, 0, -1))
        for one in self.brokers:
            index |= client.smembers(keys.in_flight(one.commands.worker_id, queue))
        assert bodies.keys() <= index, "a body without a reference"
        found = numbers_in(bodies.values())
        for ids, hash_ in (
            (keys.scheduled(queue), keys.scheduled_bodies(queue)),
            (keys.dead(queue), keys.dead_bodies(queue)),
        ):
            others = client.hgetall(hash_)
            assert others.keys() == set(client.zrange(ids, 0, -1))
            found += numbers_in(others.values())
        live = bodies.keys() | client.hkeys(keys.scheduled_bodies(queue))
        assert set(client.hkeys(keys.priorities(queue))) <= live, "a priority without a message"
        return found

    def drain(self) -> Counter[int]:
        broker = self.sender
        assert isinstance(broker, RedisBroker)
        client, keys = broker.client, broker.keys
        broker.inspector.resume(self.queue)
        consumer: Any = self.consume(broker)
        for one in self.brokers:
            client.zadd(keys.heartbeats(), {one.commands.worker_id: 1}, xx=True)
        broker.commands.recover(self.queue)
        found = numbers_in(client.hvals(keys.dead_bodies(self.queue)))
        while True:
            for id in client.zrange(keys.scheduled(self.queue), 0, -1):
                client.zadd(keys.scheduled(self.queue), {id: 1})
            delivery = consumer.receive(0)
            if delivery is None:
                break
            found.update(part.kwargs["number"] for part in parts_of(delivery))
            consumer.settle(delivery, DONE)
        consumer.close()
        for key in (keys.bodies, keys.scheduled_bodies, keys.suspects, keys.priorities):
            assert not client.exists(key(self.queue)), key(self.queue)
        return found


class RabbitSite(Site):
    patience = 0.02

    def make(self) -> RelayBroker:
        return RabbitBroker(self.url, options=OPTIONS, queue_type="classic")

    def clear(self) -> None:
        self.sender.flush(self.queue)
        self.sender.inspector.delete_dead(DeadFilter(self.queue))

    def begun(self, delivery: Delivery) -> None:
        if delivery.tag is not None:
            delivery.tag.awaits_quarantine_run = False

    def freeze(self, worker: int, *, notices: bool) -> None:
        subscription = self.inner(worker)._subscription
        if subscription is not None:
            with contextlib.suppress(OSError):
                subscription.connection._socket.shutdown(2)
        if notices:
            self.consumers[worker].receive(0)

    def lose_answer(self, worker: int) -> None:
        client = self.brokers[worker].client

        def publish(messages: Any) -> None:
            del client.publish
            client.publish(messages)
            raise BrokerUnavailable("the answer was lost")

        client.publish = publish

    def refuse(self, worker: int) -> None:
        """Let RabbitMQ refuse the first of the next messages that a worker publishes."""
        client = self.brokers[worker].client

        def publish(messages: Any) -> None:
            del client.publish
            client.publish(messages[1:])
            raise PartlyRefused("the queue is full", [0], len(messages))

        client.publish = publish

    def drain(self) -> Counter[int]:
        for worker in (0, 1):
            subscription = self.inner(worker)._subscription
            if subscription is not None:
                subscription.connection.close()
        found = numbers_in(
            [letter.message.encode() for letter in self.sender.dead_letters(self.queue)]
        )
        with self.sender.client.connection() as connection:  # type: ignore[attr-defined]
            connection.calls(
                [spec.Basic.Consume(queue=self.queue, consumer_tag="drain", no_ack=True)]
            )
            while True:
                connection.read(0.1)
                if not connection.contents:
                    break
                found += numbers_in(one.body for one in connection.contents)
                connection.contents.clear()
            connection.call(spec.Basic.Cancel(consumer_tag="drain"))
        return found


def parts_of(delivery: Delivery) -> Sequence[Delivery]:
    return delivery.parts if isinstance(delivery, Batch) else [delivery]


class Takeover(RuleBasedStateMachine):
    """The state machine: operations on both workers, and the invariant after each."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.in_hand: list[list[Delivery]] = [[], []]
        self.accepted: set[int] = set()
        self.gone: set[int] = set()  # settled as done, or purged

    @initialize(batches=st.booleans(), id=IDS, worker=WORKERS)
    def begin(self, batches: bool, id: str, worker: int) -> None:
        self.site.begin(batches=batches)
        self.send(6, id, 0)
        self.fetch(worker)

    @rule(count=st.integers(1, 4), id=IDS, level=st.sampled_from([0, 9]))
    def send(self, count: int, id: str, level: int) -> None:
        """Send messages with different ids, or all with one id."""
        for _ in range(count):
            number = len(self.accepted)
            options = {"broker_priority": level} if level else {}
            message: Message[Any] = Message(
                self.site.queue, "act", (), {"number": number}, options, id or f"id-{number}"
            )
            self.site.sender.enqueue(message)
            self.accepted.add(number)

    @rule(worker=WORKERS)
    def fetch(self, worker: int) -> None:
        self.in_hand[worker] += self.site.fetch(worker)

    @precondition(lambda self: any(self.in_hand))
    @rule(worker=WORKERS, notices=st.booleans())
    def freeze(self, worker: int, notices: bool) -> None:
        self.site.freeze(worker, notices=notices)

    @rule(worker=WORKERS)
    def lose_answer(self, worker: int) -> None:
        self.site.lose_answer(worker)

    @precondition(lambda self: any(self.in_hand))
    @rule(place=PLACES, at_once=st.booleans())
    def done(self, place: int, at_once: bool) -> None:
        self.settle(place, [DONE], at_once)

    @precondition(lambda self: any(self.in_hand))
    @rule(place=PLACES, outcome=st.sampled_from([RETRY, DEFER, DEAD]), at_once=st.booleans())
    def not_done(self, place: int, outcome: Outcome, at_once: bool) -> None:
        self.settle(place, [outcome], at_once)

    @precondition(
        lambda self: any(isinstance(one, Batch) for one in [*self.in_hand[0], *self.in_hand[1]])
    )
    @rule(place=PLACES, outcomes=st.lists(OUTCOMES, min_size=3, max_size=3), at_once=st.booleans())
    def done_in_part(self, place: int, outcomes: list[Outcome], at_once: bool) -> None:
        self.settle(place, outcomes, at_once)

    def settle(self, place: int, outcomes: list[Outcome], at_once: bool) -> None:
        """Settle a delivery that was fetched.

        Args:
            outcomes: one for the message, or one for each part of a batch.
            at_once: send it immediately, as worker threads do while there is nothing to fetch.
        """
        every = [(worker, one) for worker in (0, 1) for one in self.in_hand[worker]]
        worker, delivery = every[place % len(every)]
        self.in_hand[worker].remove(delivery)
        parts = parts_of(delivery)
        delivery.outcome = outcomes[0]
        of_parts = [outcomes[0]] * len(parts)
        if isinstance(delivery, Batch) and len(outcomes) > 1:
            of_parts = delivery.part_outcomes = (outcomes * len(parts))[: len(parts)]
        for part, outcome in zip(parts, of_parts, strict=True):
            if outcome is DONE:
                self.gone.add(part.kwargs["number"])
        self.site.settle(worker, delivery, outcomes[0])
        if at_once:
            self.site.flush(worker)

    @precondition(lambda self: isinstance(self.site, RedisSite))
    @rule()
    def pause(self) -> None:
        self.site.sender.inspector.pause(self.site.queue)

    @precondition(lambda self: isinstance(self.site, RedisSite))
    @rule()
    def resume(self) -> None:
        self.site.sender.inspector.resume(self.site.queue)

    @precondition(lambda self: isinstance(self.site, RabbitSite))
    @rule(worker=WORKERS)
    def refuse(self, worker: int) -> None:
        self.site.refuse(worker)  # type: ignore[attr-defined]

    @precondition(lambda self: len(self.accepted) > 12 and not self.gone)
    @rule()
    def purge(self) -> None:
        self.site.sender.flush(self.site.queue)
        self.gone |= self.accepted

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.accepted and (found := self.site.check()) is not None:
            assert self.accepted - self.gone <= found.keys()

    def teardown(self) -> None:
        if not hasattr(self.site, "brokers"):
            return
        found = self.site.drain()
        self.site.close()
        assert self.accepted - self.gone <= found.keys()


@pytest.mark.slow
@pytest.mark.redis
def test_no_message_is_lost_on_redis(redis_url: str, unique: str) -> None:
    explore(lambda: Takeover(RedisSite(redis_url, unique)), examples=80, steps=20)


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_no_message_is_lost_on_rabbitmq(rabbitmq_url: str, unique: str) -> None:
    explore(lambda: Takeover(RabbitSite(rabbitmq_url, unique)), examples=15, steps=12)


def explore(machine: Callable[[], Takeover], *, examples: int, steps: int) -> None:
    """Run ``examples`` random sequences of operations.

    A real broker on a busy machine may deliver earlier in one run than in the next. Hypothesis then
    reports flaky data without having found a violation; the search is repeated at most twice.
    """
    attempts = 3
    while attempts:
        attempts -= 1
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except FlakyStrategyDefinition:
            if not attempts:
                raise
        else:
            return
