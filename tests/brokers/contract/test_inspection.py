"""Inspection by operators, which changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Event

import dramatiq
import pytest
from dramatiq import Worker

from formrelay.brokers import DeadFilter, Inspector, NotAvailable, State
from formrelay.brokers.inspection import UnknownCursor
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkPermanent
from formrelay.core.failure import Reason, worker_name
from formrelay.core.server_info import version_numbers
from tests.support.browsing import browse_all, ids
from tests.support.harness import Harness
from tests.support.waiting import wait_until

#: AMQP cannot list messages that are not dead letters; the last test covers these errors.
everywhere_but_rabbitmq = pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), "embedded", "memory"], indirect=True
)


@pytest.fixture
def inspector(harness: Harness) -> Inspector:
    return harness.broker.inspector


def refuse() -> None:
    raise SinkPermanent


# -- browse and find -----------------------------------------------------------------------


@everywhere_but_rabbitmq
def test_waiting_messages_are_browsed_in_the_order_of_running(harness: Harness) -> None:
    ran: list[str] = []
    actor = harness.actor(lambda number: ran.append(number), actor_name="note")
    sent = [actor.message(number) for number in range(25)]
    harness.broker.enqueue_many(sent)
    soon = [actor.message_with_options(args=(n,), broker_priority=3) for n in range(25, 27)]
    urgent = [actor.message_with_options(args=(n,), broker_priority=9) for n in range(27, 30)]
    harness.broker.enqueue_many(soon + urgent)
    before = harness.broker.counts(harness.queue)
    for limit in (1, 5, 7, 1000):
        entries = browse_all(harness, State.WAITING, limit=limit)
        assert ids(entries) == [message.message_id for message in urgent + soon + sent]
    assert {entry.state for entry in entries} == {State.WAITING}
    after = harness.broker.counts(harness.queue)
    assert (after.waiting, after.in_flight) == (before.waiting, before.in_flight) == (30, 0)
    harness.start(threads=1)
    wait_until(lambda: len(ran) == 30)
    assert ran == [entry.message.args[0] for entry in entries]


@everywhere_but_rabbitmq
def test_messages_fetched_between_two_pages_cause_no_gap_or_repetition(
    harness: Harness, inspector: Inspector, broker: RedisBroker
) -> None:
    actor = harness.actor(print, actor_name="note")
    sent = [actor.message(number) for number in range(20)]
    broker.enqueue_many(sent)
    every = [message.message_id for message in sent]
    page = inspector.browse(harness.queue, State.WAITING, limit=5)
    assert ids(page.entries) == every[:5]
    key = broker.keys.waiting(harness.queue)
    broker.client.lpop(key, 3)  # the last message seen has moved
    second = inspector.browse(harness.queue, State.WAITING, limit=5, cursor=page.cursor)
    assert ids(second.entries) == every[5:10]
    broker.client.lpop(key, 9)  # the last message seen is gone, and so are two that were not seen
    third = inspector.browse(harness.queue, State.WAITING, limit=5, cursor=second.cursor)
    assert ids(third.entries) == every[12:17]
    broker.enqueue(actor.message(20))
    last = inspector.browse(harness.queue, State.WAITING, limit=5, cursor=third.cursor)
    assert ids(last.entries)[:3] == every[17:]
    assert (len(last.entries), last.cursor) == (4, None)


@everywhere_but_rabbitmq
def test_scheduled_messages_are_browsed_by_due_time_even_if_many_are_equal(
    harness: Harness, inspector: Inspector, broker: RedisBroker
) -> None:
    actor = harness.actor(print, actor_name="note")
    due = int((time.time() + 3600) * 1000)
    together = [actor.message(n).copy(options={"eta": due}) for n in range(20)]
    later = [actor.message(n).copy(options={"eta": due + 1000}) for n in range(3)]
    broker.enqueue_many(together + later)
    expected = sorted(message.message_id for message in together)
    for limit in (1, 4, 1000):
        entries = browse_all(harness, State.SCHEDULED, limit=limit)
        assert ids(entries)[:20] == expected
        assert sorted(ids(entries)[20:]) == sorted(message.message_id for message in later)
    assert abs((entries[0].due or 0) - due / 1000) < 1
    page = inspector.browse(harness.queue, State.SCHEDULED, limit=7)
    broker.client.zrem(broker.keys.scheduled(harness.queue), *expected[2:9])
    page = inspector.browse(harness.queue, State.SCHEDULED, limit=5, cursor=page.cursor)
    assert ids(page.entries) == expected[9:14]
    assert broker.counts(harness.queue).waiting == 0


@everywhere_but_rabbitmq
def test_messages_in_flight_are_shown_with_their_worker(
    harness: Harness, inspector: Inspector
) -> None:
    begun, finish = [Event() for _ in range(3)], Event()

    def work(number: int) -> None:
        begun[number].set()
        finish.wait(20)

    actor = harness.actor(work)
    sent = [actor.send(number) for number in range(3)]
    waits = actor.message(0).copy(actor_name="work")
    harness.start(threads=3)
    assert all(event.wait(10) for event in begun)
    entries = browse_all(harness, State.IN_FLIGHT, limit=2)
    assert sorted(ids(entries)) == sorted(message.message_id for message in sent)
    assert {entry.worker for entry in entries} == {worker_name()}
    found = inspector.find(sent[0].message_id)
    assert found is not None
    assert (found.state, found.worker) == (State.IN_FLIGHT, worker_name())
    (worker,) = inspector.workers()
    assert (worker.queues, worker.name) == ((harness.queue,), worker_name())
    assert abs(time.time() - (worker.last_heartbeat or 0)) < 5
    assert inspector.counts(harness.queue).in_flight == 3
    finish.set()
    wait_until(harness.is_empty)
    assert inspector.find(sent[0].message_id) is None
    assert inspector.find(waits.message_id) is None
    harness.stop()
    assert inspector.workers() == []


@everywhere_but_rabbitmq
def test_messages_in_flight_on_several_workers_are_shown_once(
    harness: Harness, broker: RedisBroker
) -> None:
    actor, keys = harness.actor(print, actor_name="note"), broker.keys
    sent = [actor.send(number).message_id for number in range(9)]
    broker.client.delete(keys.waiting(harness.queue))
    for worker, held in (("w2", sent[:4]), ("w1", sent[4:8]), ("w3", [])):
        broker.client.zadd(keys.heartbeats(), {worker: time.time() * 1000})
        for id in held:
            broker.client.sadd(keys.in_flight(worker, harness.queue), id)
    expected = [("w1", id) for id in sorted(sent[4:8])] + [("w2", id) for id in sorted(sent[:4])]
    for limit in (1, 3, 4, 1000):
        entries = browse_all(harness, State.IN_FLIGHT, limit=limit)
        assert [(entry.worker, entry.id) for entry in entries] == expected


@everywhere_but_rabbitmq
def test_a_job_is_found_in_every_state(harness: Harness, inspector: Inspector) -> None:
    actor = harness.actor(refuse)
    now, later = actor.send(), actor.send_with_options(delay=3_600_000)
    waiting, scheduled = inspector.find(now.message_id), inspector.find(later.message_id)
    assert waiting is not None
    assert scheduled is not None
    assert (waiting.state, waiting.due) == (State.WAITING, None)
    assert scheduled.state is State.SCHEDULED
    assert 3500 < (scheduled.due or 0) - time.time() < 3601
    assert inspector.find(now.message_id, "another") is None
    harness.start()
    wait_until(harness.dead)
    dead = inspector.find(now.message_id)
    assert dead is not None
    assert dead.state is State.DEAD


@everywhere_but_rabbitmq
def test_undecodable_messages_are_marked_as_such(harness: Harness, inspector: Inspector) -> None:
    harness.actor(print, actor_name="note").send()
    harness.inject(b"\xff no JSON")
    good, bad = browse_all(harness, State.WAITING)
    assert good.failure is None
    assert bad.failure is not None
    assert bad.failure.reason is Reason.UNDECODABLE
    found = inspector.find("injected")
    assert found is not None
    assert found.failure is not None
    assert harness.broker.counts(harness.queue).waiting == 2


@everywhere_but_rabbitmq
def test_jobs_in_the_inbox_are_listed_after_the_queue(
    harness: Harness, broker: RedisBroker
) -> None:
    actor = harness.actor(print, actor_name="note", job_type="a.b")
    ours = actor.send()
    for number in range(5):
        job = json.dumps({"type": "a.b", "payload": number})
        broker.client.rpush(broker.keys.inbox(harness.queue), job)
    first, *others = browse_all(harness, State.WAITING, limit=2)
    assert first.id == ours.message_id
    assert [entry.message.kwargs["payload"] for entry in others] == list(range(5))
    assert broker.client.llen(broker.keys.inbox(harness.queue)) == 5


@pytest.mark.parametrize("cursor", ["", "x", "d,1,x", "w,a,b,x", "w,1,x", "s,nan,x", "s,x,\udcff"])
@everywhere_but_rabbitmq
def test_a_cursor_of_another_query_is_refused(inspector: Inspector, cursor: str) -> None:
    state = State.WAITING if cursor.startswith("w") else State.SCHEDULED
    with pytest.raises(UnknownCursor, match="start without a cursor"):
        inspector.browse("q", state, cursor=cursor)


# -- pausing, purging, ages -----------------------------------------------------------------


def test_a_pause_is_visible_until_it_is_ended(harness: Harness, inspector: Inspector) -> None:
    assert not inspector.is_paused(harness.queue)
    inspector.pause(harness.queue)
    assert inspector.is_paused(harness.queue)
    assert inspector.counts(harness.queue).paused
    inspector.resume(harness.queue)
    assert not inspector.is_paused(harness.queue)
    assert inspector.counts(harness.queue).paused is False


def test_no_worker_runs_messages_of_a_paused_queue_until_it_is_resumed(
    harness: Harness, inspector: Inspector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "formrelay")
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="note")
    beside: list[int] = []
    other = dramatiq.actor(
        beside.append, broker=harness.broker, queue_name=f"{harness.queue}-b", actor_name="other"
    )

    def until_looked(workers: int) -> None:
        if isinstance(harness.broker, RabbitBroker):  # Redis workers check with each fetch
            wait_until(lambda: [one.message for one in caplog.records].count("paused") == workers)
        for number in range(20):  # queues that are not paused continue meanwhile
            other.send(number)
            wait_until(lambda number=number: beside[-1:] == [number])  # type: ignore[misc]

    harness.start()
    another = Worker(harness.broker, worker_timeout=200, worker_threads=1)
    another.start()
    inspector.pause(harness.queue)
    inspector.pause(harness.queue)  # to pause it again is not an error
    until_looked(2)
    harness.broker.enqueue_many(actor.message(number) for number in range(50))
    until_looked(2)
    assert ran == []
    assert inspector.counts(harness.queue).waiting == 50
    harness.stop()
    harness.start()  # a worker started during the pause
    until_looked(3)
    assert ran == []
    inspector.resume(harness.queue)
    inspector.resume(harness.queue)
    wait_until(lambda: len(ran) == 50)
    another.stop()
    harness.stop()
    assert sorted(ran) == list(range(50))


@everywhere_but_rabbitmq
def test_the_age_of_the_oldest_waiting_message_ignores_priorities(
    harness: Harness, inspector: Inspector
) -> None:
    actor = harness.actor(print, actor_name="note")
    assert inspector.counts(harness.queue).oldest_age is None

    def send(seconds_ago: int, priority: int | None) -> None:
        message = actor.message_with_options(broker_priority=priority)
        sent = int((time.time() - seconds_ago) * 1000)
        harness.broker.enqueue(message.copy(message_timestamp=sent))

    send(60, None)
    send(600, 3)
    send(5, 9)
    age = inspector.counts(harness.queue).oldest_age
    assert age is not None
    assert timedelta(seconds=600) <= age < timedelta(seconds=660)


@everywhere_but_rabbitmq
def test_a_purge_deletes_all_but_dead_letters_and_returns_their_number(
    harness: Harness, inspector: Inspector
) -> None:
    actor = harness.actor(refuse)
    actor.send()
    harness.start()
    wait_until(harness.dead)
    harness.stop()
    actor.send()
    actor.send_with_options(delay=3_600_000)
    assert inspector.purge(harness.queue, dry_run=True) == 2
    assert not harness.is_empty()
    assert inspector.purge(harness.queue) == 2
    assert harness.is_empty()
    assert len(harness.dead()) == 1


# -- not available on RabbitMQ --------------------------------------------------------


@pytest.mark.parametrize(
    "broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True
)
def test_queries_that_rabbitmq_cannot_answer_are_errors(
    harness: Harness, inspector: Inspector
) -> None:
    harness.actor(print, actor_name="note").send()
    wait_until(lambda: inspector.counts(harness.queue).waiting == 1)
    counts = inspector.counts(harness.queue)
    assert (counts.scheduled, counts.in_flight, counts.oldest_age) == (None, None, None)
    questions: list[Callable[[], object]] = [
        *(
            lambda state=state: inspector.browse(harness.queue, state)  # type: ignore[misc]
            for state in (State.WAITING, State.SCHEDULED, State.IN_FLIGHT)
        ),
        lambda: inspector.find("an id"),
        inspector.workers,
    ]
    for question in questions:
        with pytest.raises(NotAvailable, match="not available on this broker"):
            question()
    assert inspector.purge(harness.queue, dry_run=True) == 1
    assert inspector.purge(harness.queue) == 1
    wait_until(lambda: inspector.counts(harness.queue).waiting == 0)


# -- queues of other actors ------------------------------------------------------------------


def test_a_queue_of_another_process_is_found_by_its_name(harness: Harness, unique: str) -> None:
    """Redis also lists it; RabbitMQ does with its management API alone."""
    actor = harness.actor(refuse, actor_name="note")
    actor.send()
    harness.start()
    wait_until(harness.dead)
    harness.stop()
    harness.broker.queues.discard(harness.queue)  # as in a process that did not import the actor
    inspector = harness.broker.inspector
    assert inspector.has_queue(harness.queue)
    assert not inspector.has_queue(f"{unique}x")
    try:
        assert harness.queue in inspector.other_queues()
        assert harness.queue in inspector.queues()
        assert inspector.replay(DeadFilter(actor="note")) == 1
    except NotAvailable:
        assert isinstance(harness.broker, RabbitBroker)


def test_an_empty_queue_of_another_process_is_found_while_a_worker_consumes_it(
    harness: Harness,
) -> None:
    """RabbitMQ keeps the queue, so there it is found without a worker too."""
    harness.actor(print, actor_name="note")
    inspector = harness.broker.inspector
    harness.start()
    wait_until(lambda: harness.queue in inspector.consumed({harness.queue}))
    harness.broker.queues.discard(harness.queue)
    assert inspector.has_queue(harness.queue)
    with suppress(NotAvailable):
        assert harness.queue in inspector.other_queues()
    harness.stop()
    assert inspector.has_queue(harness.queue) == isinstance(harness.broker, RabbitBroker)


def test_a_queue_with_waiting_messages_and_no_worker_is_reported(
    harness: Harness, inspector: Inspector
) -> None:
    finish = Event()
    actor = harness.actor(lambda: finish.wait(20), actor_name="note")

    def without_worker() -> set[str]:
        return inspector.without_worker([inspector.counts(harness.queue)])

    assert without_worker() == set()
    actor.send()
    wait_until(lambda: inspector.counts(harness.queue).waiting)
    assert without_worker() == {harness.queue}
    inspector.pause(harness.queue)
    assert without_worker() == set()
    inspector.resume(harness.queue)
    harness.start(threads=1)
    for _ in range(5):
        actor.send()
    wait_until(lambda: without_worker() == set())
    finish.set()


def test_a_server_tells_its_product_version_and_clock(harness: Harness) -> None:
    info = harness.broker.server_info()
    if isinstance(harness.broker, RedisBroker):
        assert info is not None
        assert info.product in ("Redis", "Valkey")
        assert info.clock_ahead is not None
        assert abs(info.clock_ahead) - info.clock_error < 1
    elif isinstance(harness.broker, RabbitBroker):
        assert info is not None
        assert (info.product, info.clock_ahead) == ("RabbitMQ", None)
    else:
        assert info is None
        return
    assert version_numbers(info.version) > (3, 0)


@pytest.mark.embedded
def test_queues_are_told_from_other_keys(embedded_url: str, unique: str) -> None:
    """The keys of Redis alone have names that a scan could confuse."""
    broker = RedisBroker(embedded_url, namespace=f"{unique}*")
    for key in ("a.msgs", "b.DQ.msgs", "c.XQ.msgs", "d.paused", "e.inbox", "f.g.msgs"):
        broker.client.set(f"{unique}*:{key}", "x")
    for key in ("__once__.a.msgs", "msgs", "h.prioritiesx", "i.other"):
        broker.client.set(f"{unique}*:{key}", "x")
    broker.client.set(f"{unique}xy:z.msgs", "x")  # of a namespace that the pattern must not match
    assert broker.inspector.queues() == ["a", "b", "c", "d", "e", "f.g"]
    assert all(map(broker.inspector.has_queue, "abcde"))
    assert not any(map(broker.inspector.has_queue, "hiz"))
    broker.close()


def test_several_queues_are_counted_as_each_alone(harness: Harness, unique: str) -> None:
    inspector = harness.broker.inspector

    @dramatiq.actor(broker=harness.broker, queue_name=f"{unique}_b")
    def other() -> None:
        pass

    actor = harness.actor(lambda: None, actor_name=f"{unique}_a")
    for _ in range(3):
        actor.send()
    other.send()
    queues = [harness.queue, f"{unique}_b"]
    found = inspector.counts_of(queues)
    assert [(each.queue, each.waiting) for each in found] == [(queues[0], 3), (queues[1], 1)]
    for one in found:
        alone = inspector.counts(one.queue)
        assert (one.waiting, one.dead, one.paused) == (alone.waiting, alone.dead, alone.paused)
        assert (one.oldest_age is None) is (alone.oldest_age is None)
    assert inspector.counts_of([]) == []


def test_a_queue_that_does_not_exist_is_empty_and_is_not_created(
    harness: Harness, inspector: Inspector
) -> None:
    """RabbitMQ removes line breaks from names; Redis has keys that end in .XQ."""
    harness.actor(refuse, actor_name="note").send()
    harness.start()
    wait_until(harness.dead)
    (letter,) = harness.dead()
    for name in ("{}x", "{}.XQ", "{}.DQ", "{}\r\n", "\n{}", "", "é\ud800", "q" * 300):
        unknown = name.format(harness.queue)
        assert not inspector.has_queue(unknown)
        with suppress(NotAvailable):
            assert inspector.find(letter.id, unknown) is None
        assert inspector.dead_letter(unknown, letter.id) is None
        assert inspector.dead_ids("", unknown) == []
        assert list(inspector.dead_letters(DeadFilter(unknown))) == []
        assert inspector.delete_dead([letter.id], queue=unknown) == 0
        assert inspector.replay(DeadFilter(unknown)) == 0
        assert not inspector.has_queue(unknown)
    assert len(harness.dead()) == 1
