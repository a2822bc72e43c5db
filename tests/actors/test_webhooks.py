"""Webhooks through a worker to a real receiver, verified by the library of the specification."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
import standardwebhooks

from formrelay.core.failure import Reason
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.middleware.lines import Lines

SECRET = "SECRET-VALUE"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEW_KEY = "whsec_bmV3IGtleSBvZiBhIHJvdGF0aW9u"
#: Seconds before each attempt, in the settings of the tests.
SCHEDULE = (0, 0.1, 0.2, 1.1)


def webhook(receiver: Receiver, **changes: Any) -> dict[str, Any]:
    base = {
        "url": f"{receiver.url}/hook?token={SECRET}",
        "headers": {"X-Token": SECRET},
        "body": {"answer": SECRET, "n": [1, None, 1.5]},
        "secret": KEY,
    }
    return {**base, **changes}


def hooks(receiver: Receiver) -> list[Any]:
    return receiver.of(f"/hook?token={SECRET}")


def deliver(site: Site, payload: dict[str, Any]) -> Any:
    sent = site.actors.deliver_webhook.send(payload)
    site.work_off("webhooks")
    return sent


def test_a_webhook_arrives_signed_and_complete(
    site: Site, receiver: Receiver, lines: Lines
) -> None:
    payload = webhook(receiver)
    sent = deliver(site, payload)
    (request,) = hooks(receiver)
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == f"msg_{sent.message_id}"
    assert abs(int(request.headers["webhook-timestamp"]) - request.at) < 30
    found = standardwebhooks.Webhook(KEY).verify(request.body, request.headers)
    assert found == payload["body"]
    assert site.dead("webhooks") == []
    # No log line contains the body, a header, the query or the key.
    assert SECRET not in lines.text
    assert KEY not in lines.text


@pytest.mark.parametrize("body", [None, "text ü", 0, [], {}, [{"a": None}], 1.5, True], ids=repr)
def test_the_body_may_be_any_json(site: Site, receiver: Receiver, body: Any) -> None:
    deliver(site, webhook(receiver, body=body))
    (request,) = hooks(receiver)
    assert standardwebhooks.Webhook(KEY).verify(request.body, request.headers) == body


def test_method_headers_and_id_of_the_job_are_used(site: Site, receiver: Receiver) -> None:
    headers = {"X-Token": SECRET, "Authorization": "Bearer them", "User-Agent": "caller"}
    deliver(site, webhook(receiver, method="PUT", headers=headers, id="order_17"))
    (request,) = hooks(receiver)
    assert request.method == "PUT"
    assert request.headers["x-token"] == SECRET
    assert request.headers["authorization"] == "Bearer them"
    assert request.headers["user-agent"] == "caller"
    assert request.headers["webhook-id"] == "order_17"
    standardwebhooks.Webhook(KEY).verify(request.body, request.headers)


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json", "application/json; charset=utf-8", "text/json"]
)
def test_a_callers_json_content_type_is_sent_once(
    site: Site, receiver: Receiver, name: str, kind: str
) -> None:
    deliver(site, webhook(receiver, headers={name: kind}))
    (request,) = hooks(receiver)
    assert request.headers["content-type"] == kind


def test_during_a_key_rotation_both_keys_verify(site: Site, receiver: Receiver) -> None:
    payload = webhook(receiver, secrets=[NEW_KEY, KEY])
    del payload["secret"]
    deliver(site, payload)
    (request,) = hooks(receiver)
    for key in (NEW_KEY, KEY):
        standardwebhooks.Webhook(key).verify(request.body, request.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook("whsec_b3RoZXI=").verify(request.body, request.headers)


def test_attempts_follow_the_schedule_with_one_id_and_fresh_timestamps(
    site: Site, receiver: Receiver
) -> None:
    failure = Answer(500, SECRET)
    receiver.answers(f"/hook?token={SECRET}", failure, failure, failure)
    deliver(site, webhook(receiver))
    requests = hooks(receiver)
    assert len(requests) == 4
    gaps = [b.at - a.at for a, b in pairwise(requests)]
    for gap, wanted in zip(gaps, SCHEDULE[1:], strict=True):
        assert wanted <= gap < wanted + 30
    assert len({request.headers["webhook-id"] for request in requests}) == 1
    assert len({request.body for request in requests}) == 1
    stamps = [int(request.headers["webhook-timestamp"]) for request in requests]
    assert stamps[-1] > stamps[0]
    for request, stamp in zip(requests, stamps, strict=True):
        assert abs(stamp - request.at) < 30
        standardwebhooks.Webhook(KEY).verify(request.body, request.headers)
    assert site.dead("webhooks") == []


def test_a_webhook_is_dead_lettered_with_its_error_after_the_last_attempt(
    site: Site, receiver: Receiver, lines: Lines
) -> None:
    path = f"/hook?token={SECRET}"
    receiver.answers(path, then=Answer(500, SECRET, {"X-Odd": SECRET}))
    sent = deliver(site, webhook(receiver))
    (letter,) = site.dead("webhooks")
    assert letter.id == sent.message_id
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert (letter.failure.code, letter.failure.attempt) == (500, 4)
    assert letter.failure.message == "the receiver answered 500"
    assert len(hooks(receiver)) == 4
    assert SECRET not in lines.text
    assert SECRET not in repr(letter.failure)
    # A replay has the same webhook-id.
    receiver.answers(path, then=Answer(200))
    assert site.broker.replay("webhooks", letter.id)
    site.work_off("webhooks")
    assert len({request.headers["webhook-id"] for request in hooks(receiver)}) == 1
    assert site.dead("webhooks") == []


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_a_permanent_status_is_not_retried(site: Site, receiver: Receiver, status: int) -> None:
    receiver.answers(f"/hook?token={SECRET}", then=Answer(status))
    deliver(site, webhook(receiver))
    (letter,) = site.dead("webhooks")
    assert (letter.failure.reason, letter.failure.code) == (Reason.PERMANENT, status)
    assert letter.failure.attempt == 1
    assert len(hooks(receiver)) == 1


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 503])
def test_a_transient_status_is_retried(site: Site, receiver: Receiver, status: int) -> None:
    elsewhere = {"Location": f"{receiver.url}/elsewhere"}
    receiver.answers(f"/hook?token={SECRET}", Answer(status, headers=elsewhere))
    deliver(site, webhook(receiver))
    assert len(hooks(receiver)) == 2
    assert receiver.of("/elsewhere") == []
    assert site.dead("webhooks") == []


def test_retry_after_is_respected(site: Site, receiver: Receiver) -> None:
    receiver.answers(f"/hook?token={SECRET}", Answer(429, headers={"Retry-After": "1"}))
    deliver(site, webhook(receiver))
    first, second = hooks(receiver)
    assert 1 <= second.at - first.at < 30


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("10.0.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("192.168.1.1", "private"),
        ("0.0.0.0", "this network"),
    ],
)
def test_a_private_address_is_dead_lettered_with_the_reason(
    site: Site, receiver: Receiver, host: str, why: str
) -> None:
    deliver(site, webhook(receiver, url=f"http://{host}/{SECRET}"))
    (letter,) = site.dead("webhooks")
    assert letter.failure.reason is Reason.PERMANENT
    assert f"'{host}' resolves to a blocked address ({why})" in letter.failure.message
    assert "WEBHOOK_ALLOWED_PRIVATE_CIDRS" in letter.failure.message
    assert SECRET not in letter.failure.message


def test_an_unreachable_endpoint_uses_up_the_attempts(site: Site, receiver: Receiver) -> None:
    # Unlike our own ClickHouse, the endpoint of somebody else may never work again.
    deliver(site, webhook(receiver, url="http://127.0.0.1:1/"))
    (letter,) = site.dead("webhooks")
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert letter.failure.message == "connect: '127.0.0.1' refused the connection or is unreachable"


def test_a_throttled_endpoint_does_not_delay_another(site: Site, receiver: Receiver) -> None:
    path = f"/hook?token={SECRET}"
    receiver.answers(path, Answer(503, headers={"Retry-After": "1"}))
    site.actors.deliver_webhook.send(webhook(receiver))
    site.actors.deliver_webhook.send(webhook(receiver, url=f"{receiver.url}/other"))
    site.work_off("webhooks")
    (other,) = receiver.of("/other")
    _, second = hooks(receiver)
    assert other.at < second.at


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_each_attempt_has_the_traceparent_of_the_sender_and_no_tracestate(
    site: Site, receiver: Receiver
) -> None:
    receiver.answers(f"/hook?token={SECRET}", Answer(503))
    metadata = {"traceparent": TRACE, "tracestate": "vendor=secret"}
    site.actors.deliver_webhook.send(webhook(receiver), metadata=metadata)
    site.inject(
        "webhooks",
        orjson.dumps({"type": "webhook.send", "payload": webhook(receiver), "metadata": metadata}),
    )
    site.work_off("webhooks")
    requests = hooks(receiver)
    assert [request.headers.get("traceparent") for request in requests] == [TRACE] * 3
    assert not any("tracestate" in request.headers for request in requests)


@pytest.mark.parametrize("trace", ["00-1-2-03", f"{TRACE}\r\nX-Bad: 1", "", 5, None, [TRACE]])
def test_a_malformed_traceparent_is_not_sent(site: Site, receiver: Receiver, trace: Any) -> None:
    metadata = {"traceparent": trace, "tracestate": trace}
    call = {"payload": webhook(receiver), "metadata": metadata}
    site.actors.deliver_webhook.send_with_options(kwargs=call, traceparent=trace, tracestate=trace)
    site.inject("webhooks", orjson.dumps({"type": "webhook.send", **call}))
    site.work_off("webhooks")
    requests = hooks(receiver)
    assert [request.headers.get("traceparent") for request in requests] == [None, None]
    assert site.dead("webhooks") == []


def test_a_header_of_the_job_and_the_setting_win(site: Site, receiver: Receiver) -> None:
    own = {"Traceparent": "of the customer"}
    actor = site.actors.deliver_webhook
    actor.send(webhook(receiver, headers=own), metadata={"traceparent": TRACE})
    site.work_off("webhooks")
    site.use(webhooks={"send_traceparent": False})
    actor.send(webhook(receiver), metadata={"traceparent": TRACE})
    site.work_off("webhooks")
    found = [request.headers.get("traceparent") for request in hooks(receiver)]
    assert found == ["of the customer", None]
