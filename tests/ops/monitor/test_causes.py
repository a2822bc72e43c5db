"""Each rule finds its problem, which the test causes on a real Redis, and sees its end."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message

from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.brokers.base import RelayBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.ops.monitor import rules
from formrelay.state import make_tokens
from formrelay.state.alert_store import OutboxEntry
from formrelay.state.worker_reports import PausedSink, WorkerReport
from tests.actors.receiver import receiving
from tests.ops.monitor.watched import Kept, firing, look, make_monitor
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis
#: No program listens there.
KEY = base64.urlsafe_b64encode(b"k" * 32).decode()
NOBODY = "127.0.0.1:1"


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(redis_url)
    yield broker
    broker.close()


def send(broker: RelayBroker, queue: str, *, delay: int | None = None, age: float = 0) -> None:
    broker.declare_queue(queue)
    sent = Message(queue, "job", (), {}, {}, message_timestamp=int((time.time() - age) * 1000))
    broker.enqueue(sent, delay=delay)


def test_waiting_jobs_are_found_by_number_by_age_and_without_a_worker(broker: RedisBroker) -> None:
    kept = Kept()
    limits = {"ALERT_MAX_WAITING": "3,calm=100", "ALERT_MAX_OLDEST_SECONDS": "60"}
    monitor = make_monitor(broker, kept, **limits)
    look(monitor)
    assert kept.got == []
    for queue in ("busy", "calm"):
        for _ in range(3):
            send(broker, queue)
    send(broker, "old", age=120)
    look(monitor)
    assert sorted((rule, labels["queue"]) for _, rule, labels in kept.said) == [
        ("oldest_waiting", "old"),
        ("queue_too_long", "busy"),
        *(("queue_without_worker", queue) for queue in ("busy", "calm", "old")),
    ]
    summaries = [each["summary"] for each in kept.got]
    assert "3 jobs wait in busy (limit 3)" in summaries
    assert "the oldest job in old has waited 2m (limit 1m)" in summaries
    for queue in ("busy", "calm", "old"):
        broker.inspector.purge(queue)
    for _ in range(2):  # absent, and absent for the hold of 0 s
        look(monitor)
    assert [event for event, _, _ in kept.said] == ["firing"] * 5 + ["resolved"] * 5
    assert firing(monitor) == {}


def test_a_scheduled_job_that_nobody_starts_is_late(broker: RedisBroker) -> None:
    monitor = make_monitor(broker, Kept(), ALERT_MAX_LATE_SECONDS="0.001")
    broker.declare_queue("mails")
    consumer = broker.consume("mails", prefetch=1, timeout=1)  # alive, and then it hangs
    next(consumer)
    send(broker, "mails", delay=1)
    wait_until(lambda: _look_finds(monitor, "scheduler_late"))
    assert firing(monitor)["scheduler_late"] == {"queue": "mails"}
    consumer.close()


def _look_finds(monitor: Any, rule: str) -> bool:
    look(monitor)
    return rule in firing(monitor)


def test_failing_jobs_and_new_dead_letters_are_found(broker: RedisBroker) -> None:
    harness = Harness(broker, "jobs")

    def refuse() -> None:
        raise SinkPermanent("no")

    def fail() -> None:
        raise SinkTransient("later")

    dying, failing = (harness.actor(each, actor_name=each.__name__) for each in (refuse, fail))
    limits = {"ALERT_MAX_DEAD_LETTERS": "3", "ALERT_MIN_ATTEMPTS": "5"}
    monitor = make_monitor(broker, Kept(), **limits)
    look(monitor)
    for _ in range(3):
        dying.send()
    for _ in range(2):
        failing.send()
    harness.start()
    wait_until(lambda: broker.counts("jobs").dead == 3 and broker.counts("jobs").scheduled == 2)
    look(monitor)  # the broker counts dead letters, whoever puts them there
    assert firing(monitor)["dead_letters_growing"] == {"queue": "jobs"}
    harness.stop()  # adds to the history
    look(monitor)
    assert firing(monitor)["error_rate"] == {"queue": "jobs"}


def test_what_workers_report_is_found(broker: RedisBroker) -> None:
    reports = broker.worker_reports()
    sink = PausedSink("clickhouse", 5.0)
    reports.report(WorkerReport("a:1", "1", stalled=1_000.0))
    # Its consumers wait for the broker, and so do not look for jobs: it does not hang.
    cut_off = WorkerReport("b:2", "1", stalled=1_000.0, problem="Redis at host:1 is not reachable")
    reports.report(cut_off)
    reports.report(WorkerReport("c:3", "1", paused=(sink, PausedSink("api", 1, False))))
    times = f"{broker.keys.namespace}:__reports__.times"
    killed = WorkerReport("e:5", "1")
    for report in (WorkerReport("d:4", "1"), killed):
        reports.report(report)
        broker.client.zincrby(times, -60_000, report.id)  # the last report is a minute old
    reports.mark_ended(killed)  # by another worker of its machine
    monitor = make_monitor(broker, Kept())
    look(monitor)
    assert firing(monitor) == {
        "worker_hangs": {"worker": "a:1"},
        "worker_without_broker": {"worker": "b:2"},
        "sink_paused": {"sink": "clickhouse"},
        "worker_silent": {"worker": "d:4"},
        "worker_crashed": {"worker": "e:5"},
    }
    for name in ("a:1", "b:2", "c:3", "d:4", "e:5"):
        reports.remove(name)  # they have ended as they should
    for _ in range(2):
        look(monitor)
    assert firing(monitor) == {}


def test_systems_that_cannot_be_reached_are_found(broker: RedisBroker) -> None:
    kept = Kept()
    monitor = make_monitor(
        broker,
        kept,
        CLICKHOUSE_URL=f"clickhouse://{NOBODY}",
        CLICKHOUSE_PASSWORD="a-password",
        API_URL=f"http://{NOBODY}",
        SMTP_URL=f"smtp+none://ops:a-password@{NOBODY}",
        SHEETS_API_URL=f"https://{NOBODY}",
        SHEETS_OAUTH_CLIENT_ID="forms",
        SHEETS_OAUTH_CLIENT_SECRET="a-password",
    )
    look(monitor)
    found = {labels["sink"] for _, rule, labels in kept.said if rule == "sink_unreachable"}
    assert found == {"clickhouse", "api", "smtp", "google"}
    assert "a-password" not in repr(kept.got)


def test_endpoints_and_connections_are_found(broker: RedisBroker) -> None:
    registry = make_registry(broker.state)
    now = time.time()
    for id in ("shop", "crm"):
        failed = DeliveryReport(id, "example.org", False, 9, now, now, 500, open_until=now + 60)
        registry.report([failed], DisableRules())
    registry.disable("crm", why="by hand", now=now)
    tokens = make_tokens(broker.state, lambda: KEY, broker.idempotency_store())
    tokens.adopt("team", "a-refresh-token", keep=timedelta(days=1))
    assert tokens.pause("team", "consent was withdrawn")
    monitor = make_monitor(broker, Kept(), STATE_KEY=KEY)
    look(monitor)
    assert firing(monitor) == {
        "breaker_open": {"endpoint": "shop", "host": "example.org"},
        "endpoint_disabled": {"endpoint": "crm", "host": "example.org"},
        "connection_paused": {"connection": "team"},
    }


def test_a_clock_that_is_wrong_is_found_on_every_machine_with_a_monitor(
    broker: RedisBroker,
) -> None:
    monitor = make_monitor(broker, Kept(), ALERT_MAX_CLOCK_SKEW_SECONDS="60")
    look(monitor)
    for host, ahead in (("slow", -100.0), ("right", 0.0)):
        monitor._store.lead(f"{host}:1:x", monitor._lasts, time.time() + ahead)
    look(monitor)
    assert firing(monitor) == {"clock_skew": {"host": "slow"}}


def test_a_receiver_that_takes_nothing_is_told_to_the_others(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_RECEIVER_SECONDS", 0.0)
    broken, working = Kept("broken"), Kept("working")
    broken.error = SinkTransient("down")
    monitor = make_monitor(broker, broken, working)
    send(broker, "jobs")
    for _ in range(2):
        look(monitor)
    assert [rule for _, rule, _ in working.said] == ["queue_without_worker", "receiver_failing"]
    assert broken.attempts == 1, "it is not tried again before its time"
    (left,) = monitor._store.load()[1]
    assert (left.receiver, left.attempts) == ("broken", 1)
    assert isinstance(left, OutboxEntry)


def test_facts_that_cannot_be_read_end_no_alert_and_are_a_finding(broker: RedisBroker) -> None:
    broker.worker_reports().report(WorkerReport("a:1", "1", stalled=1_000.0))
    monitor = make_monitor(broker, Kept())
    look(monitor)
    reports = f"{broker.keys.namespace}:__reports__"
    broker.client.rename(reports, "aside")
    broker.client.set(reports, "no hash")
    for _ in range(3):
        look(monitor)
    found = firing(monitor)
    assert found.keys() == {"look_failed", "worker_hangs"}
    assert found["look_failed"] == {"part": "workers"}
    assert found["worker_hangs"] == {"worker": "a:1"}


def test_each_look_is_a_heartbeat_for_a_service_outside(broker: RedisBroker) -> None:
    with receiving() as receiver:
        monitor = make_monitor(broker, Kept(), ALERT_HEARTBEAT_URL=f"{receiver.url}/beat")
        look(monitor)
        wait_until(lambda: [each.method for each in receiver.of("/beat")] == ["GET"])


def test_a_rule_that_is_off_finds_nothing_and_many_findings_become_few(
    broker: RedisBroker,
) -> None:
    for number in range(30):
        send(broker, f"q{number}")
    kept = Kept()
    monitor = make_monitor(broker, kept, ALERT_MAX_WAITING="1", ALERT_RULES_OFF="queue_too_long")
    look(monitor)
    assert {rule for _, rule, _ in kept.said} == {"queue_without_worker"}
    assert len(kept.said) == rules.MAX_FINDINGS + 1
    assert ("firing", "queue_without_worker", {"queue": "(others)"}) in kept.said
    send(broker, "a-first")
    look(monitor)
    assert len(kept.said) == rules.MAX_FINDINGS + 1, "the same alerts are kept"
