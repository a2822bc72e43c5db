"""The page of webhooks."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import orjson
import pytest

from formrelay.actors.webhooks.actor import endpoint_of_url
from formrelay.actors.webhooks.delivery_rates import DeliveryRate
from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.brokers import State
from formrelay.config import Settings
from formrelay.core.errors import SinkUnavailable
from formrelay.ops.dashboard import endpoint_list
from formrelay.ops.dashboard.access import Role
from tests.ops.dashboard.conftest import HOSTILE, ORIGIN, Site
from tests.ops.dashboard.helpers import bury, fields, rows

URL = "https://one.example/hooks/SECRETPART1?token=HIDDEN"
PAYLOAD = {"url": URL, "secret": "whsec_c2VjcmV0", "endpointId": "e1", "body": {"a": "ANSWER"}}


def fail(site: Site, id: str, **more: Any) -> None:
    """Let an endpoint fail."""
    report = {
        "host": "one.example",
        "has_success": False,
        "failures": 7,
        "first_at": site.broker.clock.time() - 600,
        "last_at": site.broker.clock.time(),
        "last_status": 503,
        **more,
    }
    make_registry(site.broker.state).report([DeliveryReport(id, **report)], DisableRules())


def disabled(site: Site) -> frozenset[str]:
    return make_registry(site.broker.state).disabled()


def test_failing_endpoints_are_shown_with_their_breaker(site: Site) -> None:
    fail(site, "a", open_until=site.broker.clock.time() + 100)
    fail(site, "b")
    fail(site, "c", is_gone=True)
    first, second, third = rows(site.page("/webhooks"))
    assert "disabled the endpoint answered 410 (Gone)" in first
    assert re.search(r"breaker open next try in \dm", second)
    assert "failing since 10m ago" in third
    assert " 503 7 " in third


def test_without_clickhouse_the_page_says_what_is_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load({"REDIS_URL": "redis://127.0.0.1:1"}, env_file=None)
    monkeypatch.setattr(endpoint_list, "get_settings", lambda: settings)
    text = site.page("/webhooks")
    assert "from the delivery log in ClickHouse: CLICKHOUSE_URL is not set." in text
    assert "No endpoints." in text


def test_rates_of_the_delivery_log_are_shown_and_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def rates() -> list[DeliveryRate]:
        asked.append(1)
        return [DeliveryRate("a", "one.example", 88_112, 88_104, (503, 200, 0))]

    monkeypatch.setattr(endpoint_list, "_rates", rates)
    (row,) = rows(site.page("/webhooks"))
    assert "fine 99.9 % of 88,112 503 200 – 0" in row
    site.page("/webhooks")
    assert len(asked) == 1


def test_an_error_of_clickhouse_is_said_and_the_rest_is_shown(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rates() -> list[DeliveryRate]:
        raise SinkUnavailable("ClickHouse is down")

    monkeypatch.setattr(endpoint_list, "_rates", rates)
    fail(site, "b")
    text = site.page("/webhooks")
    assert "ClickHouse is down" in text
    assert len(rows(text)) == 1


def test_the_url_of_an_endpoint_comes_from_its_jobs_without_secrets(site: Site) -> None:
    bury(site, "job1", kwargs={"payload": PAYLOAD})
    text = site.page("/webhooks")
    assert "one.example/hooks/[…]?[…]" in text
    for hidden in ("SECRETPART1", "HIDDEN", "whsec_", "ANSWER"):
        assert hidden not in text


def test_an_endpoint_is_disabled_and_enabled(site: Site) -> None:
    fail(site, "b")
    assert site.post("/webhooks/change", endpoint="b", do="disable").status_code == 303
    assert disabled(site) == {"b"}
    assert "disabled by local" in rows(site.page("/webhooks"))[0]
    site.post("/webhooks/change", endpoint="b", do="disable")
    assert "It is disabled already." in site.page("/webhooks")
    site.post("/webhooks/change", endpoint="b", do="enable")
    assert disabled(site) == frozenset()
    log = site.page("/audit")
    assert ">webhooks endpoints enable<" in log
    assert log.count(">webhooks endpoints disable<") == 1


def test_a_test_is_sent_with_the_url_and_secret_of_a_job(site: Site) -> None:
    bury(site, "job1", kwargs={"payload": {**PAYLOAD, "id": "order_17"}})
    site.post("/webhooks/change", endpoint="e1", do="test")
    assert "Sent a test to e1 as job" in site.page("/webhooks")
    (entry,) = site.broker.inspector.browse("webhooks", State.WAITING).entries
    payload = entry.message.kwargs["payload"]
    assert payload["body"]["type"] == "webhook.test"
    assert {name: payload[name] for name in ("url", "secret", "endpointId")} == {
        name: PAYLOAD[name] for name in ("url", "secret", "endpointId")
    }
    assert "ANSWER" not in str(payload)
    assert "id" not in payload  # the receiver would take it for a repetition
    assert site.post("/webhooks/change", endpoint="unknown", do="test").status_code == 404


def waiting(site: Site) -> dict[str, Any]:
    """The payload of the one waiting job."""
    (entry,) = site.broker.inspector.browse("webhooks", State.WAITING).entries
    found: dict[str, Any] = entry.message.kwargs["payload"]
    return found


def test_a_test_takes_url_and_secret_from_a_delivered_job_that_is_kept(site: Site) -> None:
    fail(site, "e1")
    registry, day = make_registry(site.broker.state), timedelta(days=1)
    job = orjson.dumps({"payload": PAYLOAD, "metadata": {"formId": "f"}})
    registry.keep({"msg_1": job}, day, newest={"e1": "msg_1"})
    assert site.post("/webhooks/change", endpoint="e1", do="test").status_code == 303
    assert waiting(site)["secret"] == PAYLOAD["secret"]
    assert "ANSWER" not in str(waiting(site))


def test_a_test_takes_url_and_secret_from_a_job_in_flight(site: Site) -> None:
    fail(site, "e1")
    site.add("webhooks", "waiting", "job1", kwargs={"payload": PAYLOAD})
    keys, client = site.broker.keys, site.broker.client
    client.lrem(keys.waiting("webhooks"), 0, "job1")
    client.sadd(keys.in_flight("worker", "webhooks"), "job1")
    client.zadd(keys.heartbeats(), {"worker": site.broker.clock.time() * 1000})
    assert site.post("/webhooks/change", endpoint="e1", do="test").status_code == 303
    assert waiting(site)["url"] == URL


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, by which URLs are checked."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setattr("formrelay.config.settings._current", None)


@pytest.mark.usefixtures("settings")
def test_a_test_asks_for_url_and_secret_if_no_job_is_left(site: Site) -> None:
    id = endpoint_of_url(URL)
    fail(site, id)
    text = site.post("/webhooks/change", endpoint=id, do="test").text
    assert "No job of this endpoint is stored" in text
    entered = {"endpoint": id, "url": URL, "secret": "whsec_c2VjcmV0", "style": "stripe"}
    answer = site.post("/webhooks/test", **{**entered, "url": "https://one.example/other"})
    assert answer.status_code == 422
    assert "got the URL of another endpoint" in answer.text
    assert "whsec_c2VjcmV0" not in answer.text
    assert site.post("/webhooks/test", **{**entered, "secret": "whsec_-"}).status_code == 422
    assert site.post("/webhooks/test", **{**entered, "style": "none"}).status_code == 422
    assert site.post("/webhooks/test", **{**entered, "endpoint": "url_0"}).status_code == 404
    assert site.broker.inspector.counts("webhooks").waiting == 0
    assert site.post("/webhooks/test", **entered).status_code == 303
    sent = waiting(site)
    assert (sent["url"], sent["secret"], sent["signatureStyle"]) == (
        URL,
        "whsec_c2VjcmV0",
        "stripe",
    )
    assert sent["body"]["type"] == "webhook.test"
    log = site.page("/audit")
    assert f"endpoint {id}" in log
    assert "URL and secret entered" in log
    for hidden in ("SECRETPART1", "HIDDEN", "whsec_"):
        assert hidden not in log


@pytest.mark.usefixtures("settings")
def test_a_test_of_a_named_endpoint_stays_on_its_host(site: Site) -> None:
    fail(site, "e1")
    entered = {"endpoint": "e1", "secret": "key", "url": "https://evil.example/"}
    answer = site.post("/webhooks/test", **entered)
    assert "expected a URL of the host one.example, got another host" in answer.text
    answer = site.post("/webhooks/test", **{**entered, "url": "http://one.example/"})
    assert "WEBHOOK_ALLOW_HTTP" in answer.text
    assert site.post("/webhooks/test", **{**entered, "url": URL}).status_code == 303
    assert waiting(site)["endpointId"] == "e1"


def test_no_test_is_sent_to_a_disabled_endpoint(site: Site) -> None:
    bury(site, "job1", kwargs={"payload": PAYLOAD})
    fail(site, "e1", is_gone=True)
    site.post("/webhooks/change", endpoint="e1", do="test")
    text = site.page("/webhooks")
    assert "enable it first" in text
    assert 'value="test"' not in text
    assert site.broker.inspector.counts("webhooks").waiting == 0


def test_readers_send_no_test(site: Site) -> None:
    fail(site, "e1")
    reader = site.with_tokens(Role.READ_ONLY)
    for path in ("/webhooks/test", "/webhooks/change"):
        data = {"endpoint": "e1", "do": "test", "url": URL, "secret": "key"}
        assert reader.post(path, data=data, headers=ORIGIN).status_code == 403


def test_the_dead_letters_of_an_endpoint_are_replayed_after_a_question(site: Site) -> None:
    for id in ("a", "b"):
        bury(site, id, kwargs={"payload": PAYLOAD})
    bury(site, "other", kwargs={"payload": {**PAYLOAD, "endpointId": "e2"}})
    answer = site.post("/webhooks/change", endpoint="e1", do="resend")
    assert "Replay 2 dead letters?" in answer.text
    assert "queue webhooks: a, b" in answer.text
    assert fields(answer.text)["expected"] == "2"
    assert site.broker.counts("webhooks").dead == 3
    site.post("/webhooks/change", endpoint="e9", do="resend")
    assert "No dead letter of e9 was found." in site.page("/webhooks")


def test_a_webhook_is_resent_by_its_id(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    bury(site, "job1", kwargs={"payload": PAYLOAD})
    site.post("/webhooks/resend", id="msg_job1")
    assert "msg_job1: replayed." in site.page("/webhooks")
    assert site.broker.counts("webhooks").dead == 0
    site.post("/webhooks/resend", id=" ")
    assert "Enter a webhook id." in site.page("/webhooks")


def test_without_a_shared_store_the_page_says_what_is_missing(site: Site) -> None:
    bury(site, "job1", kwargs={"payload": PAYLOAD})
    site.broker.state = None
    text = site.page("/webhooks")
    assert "set STATE_URL to a Redis URL" in text
    assert 'value="disable"' not in text
    assert site.post("/webhooks/change", endpoint="e1", do="disable").status_code == 404


def test_readers_change_nothing_and_hostile_texts_are_text(site: Site) -> None:
    fail(site, HOSTILE, host=HOSTILE)
    text = site.with_tokens(Role.READ_ONLY).get("/webhooks").text
    assert "<script>alert" not in text
    assert 'name="do"' not in text
    text = site.page("/webhooks")
    for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
        assert hidden not in text
