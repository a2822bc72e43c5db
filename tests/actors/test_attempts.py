"""The delivery log: every attempt in ClickHouse and in a log line, both without secrets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from formrelay.actors.webhooks import delivery_log
from formrelay.actors.webhooks import resources as deliveries
from formrelay.actors.webhooks.delivery_rates import delivery_rates
from formrelay.brokers import consumer
from formrelay.config import get_settings
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.actors.test_webhooks import KEY, SECRET, webhook
from tests.middleware.lines import Lines
from tests.support.request_counts import counting
from tests.support.waiting import wait_until


@pytest.fixture
def client(site: Site, clickhouse_url: str, clickhouse_database: str) -> Any:
    client = site.use_clickhouse(clickhouse_url, clickhouse_database)
    use(site)
    return client


def use(site: Site, **changes: Any) -> None:
    """Change the settings of webhooks, with the delivery log in the same ClickHouse."""
    section = get_settings().clickhouse
    clickhouse = {"url": section.url, "database": section.database}
    site.use(webhooks={"delivery_log": True, **changes}, clickhouse=clickhouse)


def test_every_attempt_writes_a_row_and_a_log_line(
    site: Site, receiver: Receiver, client: Any, lines: Lines
) -> None:
    said = {"error": "busy", "you sent": {"answer": SECRET, "again": SECRET}, "key": KEY}
    receiver.answers(f"/hook?token={SECRET}", Answer(503, said), Answer(200, "thanks"))
    sent = site.actors.deliver_webhook.send(
        webhook(receiver, endpointId="e1"), {"formId": "f1", "submissionId": "s1"}
    )
    with counting("webhook") as found:
        site.work_off("webhooks")
    assert found == {"failed": 1, "ok": 1}
    site.work_off("events")

    attempts = delivery_log.attempts_of(sent.message_id, limit=10)
    assert [(one.attempt, one.outcome, one.status, one.error) for one in attempts] == [
        (1, "failed", 503, "SinkTransient"),
        (2, "delivered", 200, ""),
    ]
    first, second = attempts
    assert (first.webhook_id, first.message_id) == (f"msg_{sent.message_id}", sent.message_id)
    assert (first.endpoint, first.host, first.form_id, first.submission_id) == (
        "e1",
        "127.0.0.1",
        "f1",
        "s1",
    )
    assert first.message == "the receiver answered 503"
    assert first.response == f"{len(orjson.dumps(said))} bytes of application/json"
    assert second.response == "8 bytes of application/json"
    assert 0 < first.duration_ms < 5_000
    assert abs((second.at - datetime.now(UTC)).total_seconds()) < 60
    assert second.at >= first.at  # to the second, on an old server
    # By the webhook-id too, and once, even if the batch was inserted twice.
    assert delivery_log.attempts_of(first.webhook_id, limit=10) == attempts

    told = [line for line in lines.attempts() if line["actor"] == "deliver_webhook"]
    assert [(line["endpoint"], line["status"], line["response"]) for line in told] == [
        ("e1", 503, first.response),
        ("e1", 200, second.response),
    ]
    assert all(line["webhookId"] == first.webhook_id for line in told)
    assert SECRET not in lines.text
    assert KEY not in lines.text


def test_the_text_of_a_response_is_kept_on_request_without_copies_of_the_request(
    site: Site, receiver: Receiver, client: Any, lines: Lines
) -> None:
    use(site, keep_response_text=True)
    path = f"/services/T0000/{SECRET}"
    receiver.answers(path, Answer(404, f"Cannot POST {path}"), Answer(200))
    sent = site.actors.deliver_webhook.send(webhook(receiver, url=receiver.url + path))
    site.work_off("webhooks")
    site.work_off("events")
    first, _ = delivery_log.attempts_of(sent.message_id, limit=10)
    assert first.response == '"Cannot POST /[…]"'
    assert SECRET not in lines.text


def test_no_response_writes_a_row_too(site: Site, receiver: Receiver, client: Any) -> None:
    refused = site.actors.deliver_webhook.send(webhook(receiver, url="http://127.0.0.1:1/"))
    blocked = site.actors.deliver_webhook.send(webhook(receiver, url="http://10.0.0.1/"))
    site.work_off("webhooks")
    site.work_off("events")
    four = delivery_log.attempts_of(refused.message_id, limit=10)
    assert [(one.status, one.outcome, one.error) for one in four] == [
        (0, "failed", "SinkUnavailable")
    ] * 4
    (one,) = delivery_log.attempts_of(blocked.message_id, limit=10)
    assert (one.status, one.outcome, one.error) == (0, "refused", "SinkPermanent")
    assert "blocked address (private)" in one.message
    (dead,) = client.query("SELECT count() FROM webhook_deliveries_once WHERE host = '10.0.0.1'")
    assert dead == (1,)


def test_a_deferred_delivery_is_no_attempt(site: Site, receiver: Receiver, client: Any) -> None:
    use(site, endpoint_concurrency=1)
    receiver.answers(f"/hook?token={SECRET}", then=Answer(after=0.3))
    for _ in range(6):
        site.actors.deliver_webhook.send(webhook(receiver))
    site.work_off("webhooks")
    site.work_off("events")
    assert client.query("SELECT count(), max(attempt) FROM webhook_deliveries_once") == [(6, 1)]


def test_a_delivery_cancelled_by_a_stopping_worker_is_no_failure(
    site: Site, receiver: Receiver, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_FINISH_SECONDS", 0.2)
    use(site, disable_after_failures=1)
    receiver.answers(f"/hook?token={SECRET}", Answer(after=30))
    sent = site.actors.deliver_webhook.send(webhook(receiver))
    site.start("webhooks")
    wait_until(lambda: receiver.requests)
    site.stop()
    assert deliveries.endpoint_registry().all() == []
    site.work_off("webhooks")
    site.work_off("events")
    (attempt,) = delivery_log.attempts_of(sent.message_id, limit=10)
    assert (attempt.attempt, attempt.outcome) == (1, "delivered")
    assert len(receiver.requests) == 2


def test_a_delivery_cancelled_by_its_time_limit_is_a_failure(
    site: Site, receiver: Receiver, client: Any
) -> None:
    receiver.answers(f"/hook?token={SECRET}", Answer(after=30))
    sent = site.actors.deliver_webhook.send_with_options(args=(webhook(receiver),), time_limit=300)
    site.work_off("webhooks")
    site.work_off("events")
    attempts = delivery_log.attempts_of(sent.message_id, limit=10)
    assert [attempt.outcome for attempt in attempts] == ["failed", "delivered"]


def attempt_json(number: int, **changes: Any) -> dict[str, Any]:
    """An attempt as the actor adds it to the delivery log."""
    return {
        "webhookId": f"id_{number}",
        "messageId": f"m{number}",
        "endpoint": "e",
        "host": "example.com",
        "attempt": 1,
        "outcome": "failed",
        "durationMs": 1.5,
        "response": "",
        "at": 1_800_000_000.0,
        **changes,
    }


def test_attempts_that_the_broker_refuses_are_sent_later(site: Site, client: Any) -> None:
    log, redis = delivery_log.delivery_log(), site.broker.client  # type: ignore[attr-defined]
    redis.config_set("maxmemory", 1)  # a full server refuses writes
    try:
        for number in range(3):
            log.add(attempt_json(number), None)
        log.send()
        assert site.waiting("events") == 0
    finally:
        redis.config_set("maxmemory", 0)
    log.add(attempt_json(3), None)
    log.send()
    site.work_off("events")
    found = client.query("SELECT webhook_id FROM webhook_deliveries_once ORDER BY webhook_id")
    assert found == [("id_0",), ("id_1",), ("id_2",), ("id_3",)]


def test_attempts_too_large_for_one_message_are_sent_in_several(site: Site, client: Any) -> None:
    log, options = delivery_log.delivery_log(), site.broker.options
    site.broker.options = replace(options, max_message_bytes=10_000)
    try:
        for number in range(9):
            log.add(attempt_json(number, response="x" * 2000), None)
        log.add(attempt_json(9, response="x" * 20_000), None)  # too large even alone
        log.send()
    finally:
        site.broker.options = options
    site.work_off("events")
    rows = client.query("SELECT count(), sum(length(response)) FROM webhook_deliveries_once")
    assert rows == [(10, 9 * 2000)]


def test_disabling_an_endpoint_sends_an_event(site: Site, receiver: Receiver, client: Any) -> None:
    receiver.answers(f"/hook?token={SECRET}", Answer(410))
    payload = webhook(receiver, endpointId="e1")
    site.actors.deliver_webhook.send(payload, {"formId": "f1"})
    site.work_off("webhooks")
    wait_until(lambda: site.waiting("events") >= 1)
    site.work_off("events")
    rows = client.query("SELECT type, form_id, properties FROM events_once")
    ((type, form_id, properties),) = rows
    assert (type, form_id) == ("webhook.endpoint_disabled", "f1")
    assert orjson.loads(properties) == {
        "endpoint": "e1",
        "host": "127.0.0.1",
        "why": "the endpoint answered 410 (Gone)",
    }


def test_without_clickhouse_no_attempts_are_sent(site: Site, receiver: Receiver) -> None:
    site.use(webhooks={"delivery_log": None}, clickhouse={"url": None})
    site.actors.deliver_webhook.send(webhook(receiver))
    site.work_off("webhooks")
    assert site.waiting("events") == 0


def test_delivered_jobs_are_kept_only_on_request(site: Site, receiver: Receiver) -> None:
    records = deliveries.endpoint_registry()
    plain = site.actors.deliver_webhook.send(webhook(receiver))
    site.work_off("webhooks")
    assert records.kept(f"msg_{plain.message_id}") is None

    site.use(webhooks={"keep_delivered": timedelta(days=1)})
    receiver.answers("/down", then=Answer(400))
    sent = site.actors.deliver_webhook.send(webhook(receiver), {"formId": "f1"})
    down = site.actors.deliver_webhook.send(webhook(receiver, url=f"{receiver.url}/down"))
    site.work_off("webhooks")
    kept = orjson.loads(records.kept(f"msg_{sent.message_id}"))
    assert kept["payload"]["body"] == webhook(receiver)["body"]
    assert kept["metadata"]["formId"] == "f1"
    assert records.kept(f"msg_{down.message_id}") is None


def test_an_endpoint_without_jobs_gets_a_test_like_its_newest_delivered_job(
    site: Site, receiver: Receiver
) -> None:
    from formrelay.ops.dashboard.webhook_tests import make_test

    site.use(webhooks={"keep_delivered": timedelta(days=1)})
    job = webhook(receiver, endpointId="e1")
    for _ in range(2):
        sent = site.actors.deliver_webhook.send(job)
        site.work_off("webhooks")
    newest = deliveries.endpoint_registry().newest_kept(["e1", "e2"])
    assert newest == {"e1": f"msg_{sent.message_id}"}
    message = make_test(site.broker, "e1")
    assert message is not None
    site.broker.enqueue(message)
    site.work_off("webhooks")
    *_, delivered = receiver.requests
    assert delivered.json["type"] == "webhook.test"
    assert delivered.headers["webhook-id"] == f"msg_{message.message_id}"
    assert delivered.headers["webhook-signature"].startswith("v1,")
    assert make_test(site.broker, "e2") is None


def test_the_rate_of_each_endpoint_counts_its_attempts_of_a_time(site: Site, client: Any) -> None:
    now = datetime.now(UTC)
    attempts = [
        attempt_json(number, endpoint=endpoint, outcome=outcome, status=status, at=at.isoformat())
        for number, (endpoint, outcome, status, at) in enumerate(
            [
                ("good", "delivered", 200, now),
                ("bad", "delivered", 200, now - timedelta(minutes=3)),
                ("bad", "failed", 503, now - timedelta(minutes=2)),
                ("bad", "failed", 0, now - timedelta(minutes=1)),
                ("bad", "failed", 500, now - timedelta(hours=30)),
            ]
        )
    ]
    site.broker.enqueue(delivery_log.record_attempts.message_of(attempts))
    site.work_off("events")
    bad, good = delivery_rates(timedelta(hours=24), limit=10)
    assert (bad.endpoint, bad.attempts, bad.delivered) == ("bad", 3, 1)
    assert bad.statuses == (0, 503, 200)
    assert (good.endpoint, good.attempts, good.delivered) == ("good", 1, 1)
    assert [rate.endpoint for rate in delivery_rates(timedelta(hours=24), limit=1)] == ["bad"]


def test_a_job_kept_by_a_newer_version_can_be_resent(site: Site, receiver: Receiver) -> None:
    from formrelay.ops.resending import resend_webhook

    job = {"payload": webhook(receiver), "metadata": {"formId": "f1"}, "fieldOfTomorrow": 1}
    deliveries.endpoint_registry().keep({"msg_1": orjson.dumps(job)}, timedelta(days=1))
    assert resend_webhook("msg_1") == "sent again"
    (sent,) = site.messages("webhooks")
    assert sent["kwargs"]["payload"]["id"] == "msg_1"
    assert sent["kwargs"]["metadata"]["formId"] == "f1"


def test_an_attempt_recorded_by_a_newer_version_is_stored_and_listed(
    site: Site, client: Any
) -> None:
    attempt = attempt_json(1, outcome="postponed", fieldOfTomorrow={"x": 1})
    site.broker.enqueue(delivery_log.record_attempts.message_of([attempt, attempt_json(2)]))
    site.work_off("events")
    assert site.dead("events") == []
    (shown,) = delivery_log.attempts_of("id_1", limit=10)
    assert shown.outcome == "postponed"
    assert len(delivery_log.attempts_of("id_2", limit=10)) == 1
