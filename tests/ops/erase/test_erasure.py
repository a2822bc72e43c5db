"""A person is erased from a real Redis: queues, dead letters and the shared store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from dramatiq import Message

from formrelay.actors import payload_secrets
from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.brokers import BrokerOptions, State
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.config import Settings
from formrelay.middleware.delivery import BATCH, CAUSED_BY
from formrelay.ops.erase.run import Erasure, Place
from formrelay.ops.erase.subject import Subject, check_id
from formrelay.state import make_idempotency_store, make_journal, make_suppressions
from formrelay.state.journal import RecipientOutcome, Run, job_key
from formrelay.state.redis.results import RedisResultStore
from formrelay.state.suppressions import Suppression, SuppressionReason
from tests.support.harness import Harness

HOUR = timedelta(hours=1)
ANN, BOB = "ann@example.com", "bob@example.com"


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url, options=BrokerOptions())
    yield broker
    broker.close()


@pytest.fixture
def harness(broker: RedisBroker, unique: str) -> Harness:
    return Harness(broker, unique)


def settings() -> Settings:
    found = Settings.load(environ={"BROKER": "redis", "REDIS_URL": "redis://x"}, env_file=None)
    assert found.clickhouse.url is None
    return found


def erase(broker: RedisBroker, subject: Subject, **options: Any) -> dict[str, Place]:
    erasure = Erasure(broker, subject, settings=settings(), **options)
    erasure.run()
    return erasure.places


def email(address: str = ANN) -> Subject:
    return Subject.of_email(address)


def add(
    harness: Harness, *messages: dict[str, Any], actor: str = "note", **options: Any
) -> list[str]:
    """Enqueue messages with these arguments; return their ids."""
    made = [
        Message(harness.queue, actor, (), kwargs, dict(options), f"job-{number}-{len(kwargs)}")
        for number, kwargs in enumerate(messages)
    ]
    harness.actor(print, actor_name="note") if "note" not in harness.broker.actors else None
    for message in made:
        harness.broker.enqueue(message)
    return [message.message_id for message in made]


def payloads(harness: Harness, state: State = State.WAITING) -> list[Any]:
    page = harness.broker.inspector.browse(harness.queue, state, limit=1000)
    return [entry.message.kwargs for entry in page.entries]


def test_jobs_are_erased_and_others_stay(broker: RedisBroker, harness: Harness) -> None:
    add(harness, {"payload": {"to": [ANN]}}, {"payload": {"to": [BOB]}})
    places = erase(broker, email(), dry_run=True)
    assert (places["waiting"].looked_at, places["waiting"].found) == (2, 1)
    assert len(payloads(harness)) == 2
    places = erase(broker, email())
    assert (places["waiting"].looked_at, places["waiting"].found) == (2, 1)
    assert payloads(harness) == [{"payload": {"to": [BOB]}}]
    assert erase(broker, email())["waiting"].found == 0


def test_only_the_parts_about_a_person_leave_a_batch(broker: RedisBroker, harness: Harness) -> None:
    events = [{"submissionId": "s1"}, {"submissionId": "s2"}]
    add(harness, {"payload": events}, actor="record_events")
    parts = [
        {"message_id": f"p{number}", "message_timestamp": 1, "kwargs": {"payload": each}}
        for number, each in enumerate(events)
    ]
    parts = [{**part, "options": {}} for part in parts]
    add(harness, {BATCH: parts}, frozen=True)
    add(harness, {BATCH: parts[:1], "x": 1}, frozen=True)
    places = erase(broker, check_id("submission", "s1"))
    assert (places["waiting"].found, places["waiting"].parts) == (1, 2)
    assert payloads(harness) == [{"payload": [{"submissionId": "s2"}]}, {BATCH: parts[1:]}]


def test_a_list_that_is_one_payload_is_erased_as_a_whole(
    broker: RedisBroker, harness: Harness
) -> None:
    add(harness, {"payload": [{"submissionId": "s1"}, {"name": "Ann"}]})
    places = erase(broker, check_id("submission", "s1"))
    assert (places["waiting"].found, places["waiting"].parts) == (1, 0)


def test_jobs_that_an_erased_job_caused_are_erased(broker: RedisBroker, harness: Harness) -> None:
    (parent,) = add(harness, {"payload": {"formId": "f1"}})
    add(harness, {"payload": "thanks", "n": 1}, **{CAUSED_BY: parent})
    add(harness, {"payload": "thanks", "n": 1, "m": 1}, **{CAUSED_BY: "another"})
    places = erase(broker, check_id("form", "f1"))
    assert places["waiting"].found == 2
    assert len(payloads(harness)) == 1


def test_plain_jobs_and_bytes_that_cannot_be_decoded_are_erased(
    broker: RedisBroker, harness: Harness
) -> None:
    keys, client = broker.keys, broker.client
    harness.actor(print, actor_name="note")
    client.rpush(keys.inbox(harness.queue), orjson.dumps({"type": "x", "payload": ANN}))
    client.rpush(keys.inbox(harness.queue), orjson.dumps({"type": "x", "payload": BOB}))
    harness.inject(b"\xff not JSON: " + ANN.encode())
    assert erase(broker, email())["waiting"].found == 2
    assert client.lrange(keys.inbox(harness.queue), 0, -1) == [
        orjson.dumps({"type": "x", "payload": BOB})
    ]


def test_jobs_in_flight_are_counted_and_make_it_incomplete(
    broker: RedisBroker, harness: Harness
) -> None:
    add(harness, {"payload": ANN})
    keys, client = broker.keys, broker.client
    id = client.lpop(keys.waiting(harness.queue))
    client.zadd(keys.heartbeats(), {"w": 10**13})
    client.sadd(keys.in_flight("w", harness.queue), id)
    erasure = Erasure(broker, email(), settings=settings())
    erasure.run()
    assert erasure.places["in_flight"].found == 1
    assert (erasure.erased, erasure.is_complete) == (0, False)

    def give_back(_looked_at: int, _erased: int) -> None:  # as a worker that failed
        if client.srem(keys.in_flight("w", harness.queue), id):
            client.rpush(keys.waiting(harness.queue), id)

    erasure = Erasure(broker, email(), settings=settings(), wait=60, progress=give_back)
    erasure.run()
    assert (erasure.erased, erasure.is_complete) == (1, True)


def test_kept_webhooks_and_results_are_erased(broker: RedisBroker, harness: Harness) -> None:
    assert broker.state is not None
    registry = RedisRegistry(broker.client, "here")
    bodies = {"msg_a": {"payload": {"body": ANN}}, "msg_b": {"payload": {"body": BOB}}}
    registry.keep({id: orjson.dumps(each) for id, each in bodies.items()}, HOUR, newest={"e": "b"})
    results = RedisResultStore(broker.state)
    for id, address in (("t1", ANN), ("t2", BOB)):
        results.put(id, orjson.dumps({"args": [address]}), HOUR)
    store = make_idempotency_store(broker.state)
    for key, address in (("k1", ANN), ("k2", BOB)):
        store.begin(key, "me", HOUR)
        store.finish(key, "me", orjson.dumps(address), HOUR)
    store.begin("k3", "me", HOUR)
    dry = erase(broker, email(), dry_run=True)
    assert [dry[name].found for name in ("kept_webhooks", "results", "idempotency")] == [1, 1, 1]
    assert registry.kept("msg_a")
    done = erase(broker, email())
    assert [done[name].found for name in ("kept_webhooks", "results", "idempotency")] == [1, 1, 1]
    assert registry.kept("msg_a") is None
    assert registry.kept("msg_b")
    assert (results.get("t1"), bool(results.get("t2"))) == (None, True)
    assert store.begin("k1", "me", HOUR) is None
    assert store.begin("k2", "me", HOUR)


def test_what_the_store_has_of_an_erased_job_goes_with_it(
    broker: RedisBroker, harness: Harness
) -> None:
    assert broker.state is not None
    (id,) = add(harness, {"payload": {"submissionId": "s1"}})
    results = RedisResultStore(broker.state)
    results.put(id, b'{"state": "waiting"}', HOUR)
    erase(broker, check_id("submission", "s1"))
    assert results.get(id) is None


def test_the_journal_of_an_email_that_is_not_over_stays(broker: RedisBroker) -> None:
    assert broker.state is not None
    journal = make_journal(broker.state)
    jobs = {name: job_key("emails", name) for name in ("over", "alone", "open")}

    def begin(job: str, recipients: list[str]) -> Run:
        run = journal.begin(job, recipients)
        assert isinstance(run, Run)
        return run

    accepted, deferred = RecipientOutcome("accepted", "250"), RecipientOutcome("deferred", "450")
    over = begin(jobs["over"], [ANN, BOB])
    journal.settle(over, {ANN: accepted, BOB: accepted}, end=True)
    journal.settle(begin(jobs["alone"], [ANN]), {ANN: accepted}, end=True)
    journal.settle(begin(jobs["open"], [ANN, BOB]), {ANN: accepted, BOB: deferred}, end=True)
    for dry_run in (True, False):
        place = erase(broker, email(), dry_run=dry_run)["journals"]
        assert (place.looked_at, place.found, place.open) == (3, 2, 1)
    left = {name: journal.read(job, [ANN, BOB]) for name, job in jobs.items()}
    assert left["alone"] is None
    assert left["over"] is not None
    assert set(left["over"].recipients) == {BOB}
    assert left["open"] is not None
    assert set(left["open"].recipients) == {ANN, BOB}


def test_a_suppression_is_removed_unless_it_is_kept(broker: RedisBroker) -> None:
    store = make_suppressions(broker.state)
    now = datetime.now(UTC)
    store.add([Suppression(ANN, SuppressionReason.UNSUBSCRIBED, now)])
    assert erase(broker, email(), dry_run=True)["suppressions"].found == 1
    assert erase(broker, email(), keep_suppression=True)["suppressions"].found == 0
    assert store.count() == 1
    assert erase(broker, email("ANN@example.com"))["suppressions"].found == 1
    assert store.count() == 0


def test_an_erasure_that_is_stopped_goes_on_in_the_next(
    broker: RedisBroker, harness: Harness
) -> None:
    add(harness, *({"payload": ANN, "n": number} for number in range(1200)))
    erasure = Erasure(broker, email(), settings=settings())
    erasure.should_stop = lambda: erasure.erased > 0
    erasure.run()
    assert (erasure.is_stopped, erasure.is_complete) == (True, False)
    assert 0 < erasure.erased < 1200
    left = broker.counts(harness.queue).waiting
    assert erase(broker, email())["waiting"].found == left == 1200 - erasure.erased


def test_rabbitmq_says_what_it_cannot_look_at(rabbitmq_url: str, unique: str) -> None:
    broker = RabbitBroker(rabbitmq_url, options=BrokerOptions())
    harness = Harness(broker, unique)
    add(harness, {"payload": ANN}, {"payload": BOB})
    dry = Erasure(broker, email(), settings=settings(), dry_run=True)
    dry.run()
    assert dry.places["waiting"].note == f"not looked at (a dry run cannot): 2 of {unique}"
    done = Erasure(broker, email(), settings=settings())
    done.run()
    assert (done.places["waiting"].found, done.is_complete) == (1, True)
    assert broker.counts(unique).waiting == 1
    note = broker.actors["note"]
    # A job before the job that caused it is found too.
    cause = note.message_with_options(kwargs={"payload": ANN})
    options = {CAUSED_BY: cause.message_id}
    broker.enqueue(note.message_with_options(kwargs={"payload": "thanks"}, **options))
    broker.enqueue(cause)
    both = Erasure(broker, email(), settings=settings())
    both.run()
    assert (both.places["waiting"].found, both.is_complete) == (2, True)
    note.send_with_options(kwargs={"payload": ANN}, delay=3_600_000)
    later = Erasure(broker, email(), settings=settings())
    later.run()
    assert (later.erased, later.is_complete) == (0, False)
    assert "1 of all queues together" in later.places["scheduled"].note
    broker.close()


def test_jobs_that_cannot_be_decrypted_are_known_to_be_left(
    broker: RedisBroker, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_secrets, "get_settings", settings)
    add(harness, {"payload": {"to": [BOB]}})
    assert erase(broker, email())["waiting"].is_complete
    add(harness, {"payload": {"url": {"$encrypted": "ab"}}, "encrypted": "1.0f0f0f0f.gAAAAA"})
    for dry_run in (True, False):
        place = erase(broker, email(), dry_run=dry_run)["waiting"]
        assert (place.found, place.is_complete) == (0, False)
        assert "set PAYLOAD_KEYS" in place.note
    assert len(payloads(harness)) == 2
