"""Webhooks after a submission, partial or payment: an invalid webhook affects no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from formrelay.actors.webhooks import actor as webhooks
from formrelay.brokers import BrokerUnavailable
from formrelay.config import get_settings, use_settings
from formrelay.core.failure import Reason
from formrelay.core.trace_context import TraceContext, current_trace
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.middleware.lines import Lines
from tests.support.waiting import wait_until

SECRET = "SECRET-VALUE"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT = "2026-01-31T09:30:00Z"
PATH = "/api/v1/submissions/"


@pytest.fixture
def api(site: Site, receiver: Receiver) -> Receiver:
    site.use(api={"url": receiver.url})
    return receiver


def endpoint(api: Receiver, name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "url": f"{api.url}/{name}", "secret": KEY, **changes}


Sender = Callable[[Site, Receiver, list[Any]], str]


def submission(**changes: Any) -> dict[str, Any]:
    return {
        "submissionId": "sub-1",
        "formId": "form-1",
        "status": "completed",
        "answers": {"name": "Ann"},
        "submittedAt": AT,
        **changes,
    }


def by_submission(site: Site, api: Receiver, endpoints: list[Any]) -> str:
    """A submission that names its endpoints."""
    saved = {"id": "sub-1", "status": "completed", "webhooks": []}
    api.answers(PATH, then=Answer(201, saved))
    api.answers(f"{PATH}sub-1/", then=Answer(200, saved))
    site.actors.save_submission.send(submission(webhooks=endpoints))
    return "submissions"


def by_api(site: Site, api: Receiver, endpoints: list[Any]) -> str:
    """A submission whose endpoints the API returns."""
    saved = {"id": "sub-1", "status": "completed", "webhooks": endpoints}
    api.answers(PATH, then=Answer(201, saved))
    api.answers(f"{PATH}sub-1/", then=Answer(200, saved))
    site.actors.save_submission.send(submission())
    return "submissions"


def by_payment(site: Site, api: Receiver, endpoints: list[Any]) -> str:
    """The payment of a submission."""
    saved = {**submission(), "id": "sub-1", "webhooks": endpoints}
    api.answers(f"{PATH}sub-1/payment/", then=Answer(200, saved))
    event = {
        "id": "evt_1",
        "type": "payment_intent.succeeded",
        "created": 1,
        "data": {"object": {"metadata": {"submissionId": "sub-1"}}},
    }
    site.actors.update_payment.send(event)
    return "submissions"


def by_partial(site: Site, api: Receiver, endpoints: list[Any]) -> str:
    """A partial for each endpoint."""
    for number, one in enumerate(endpoints):
        api.answers(f"/api/v1/partials/p{number}/", then=Answer(200, {}))
        site.actors.save_partial.send(
            {
                "partialId": f"p{number}",
                "formId": "form-1",
                "sessionId": f"s{number}",
                "revision": 1,
                "answers": {"name": "Ann"},
                "updatedAt": AT,
                "webhook": one,
            }
        )
    return "partials"


every_sender = pytest.mark.parametrize(
    "send", [by_submission, by_api, by_payment, by_partial], ids=lambda send: send.__name__
)

#: Invalid endpoint -> text of its dead letter.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"url": f"ftp://example.com/{SECRET}"}, "deliver_webhook: payload.url"),
    "user": ({"url": f"https://user:{SECRET}@example.com/"}, "deliver_webhook: payload.url"),
    "secret": ({"secret": f"whsec_not base64!{SECRET}"}, "deliver_webhook: payload"),
    "empty": ({"secret": ""}, "deliver_webhook: payload"),
    "headers": ({"headers": {"Host": SECRET}}, "deliver_webhook: payload.headers"),
    "long": ({"url": f"https://example.com/{SECRET * 800}"}, "deliver_webhook: payload.url"),
    "large": ({"headers": {"X-Large": SECRET * 200}}, "at most 2000 bytes"),
    "both": ({"url": f"ftp://example.com/{SECRET * 300}"}, "at most 2000 bytes"),
}


@every_sender
def test_each_webhook_names_the_job_that_caused_it_and_is_in_its_trace(
    site: Site, api: Receiver, monkeypatch: pytest.MonkeyPatch, send: Sender
) -> None:
    bad = endpoint(api, "bad", **BAD["large"][0])
    token = current_trace.set(TraceContext("ab" * 16, "cd" * 8, 1, "vendor=1"))
    queue = send(site, api, [endpoint(api, "a"), endpoint(api, "b"), bad])
    current_trace.reset(token)
    sent = [message["message_id"] for message in site.messages(queue)]
    limit(site, monkeypatch)
    site.work_off(queue)
    caused = [message["options"]["caused_by"] for message in site.messages("webhooks")]
    # The third is replaced by a message that says why it was refused.
    assert caused == (sent if send is by_partial else sent * 3)
    traces = [message["options"] for message in site.messages("webhooks")]
    traceparent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    assert {each["traceparent"] for each in traces} == {traceparent}
    assert {each["tracestate"] for each in traces} == {"vendor=1"}


def limit(site: Site, monkeypatch: pytest.MonkeyPatch, most: int = 2_000) -> None:
    """Refuse larger messages from now on; messages that are already on a queue still run."""
    options = dataclasses.replace(site.broker.options, max_message_bytes=most)
    monkeypatch.setattr(site.broker, "options", options)


@every_sender
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_endpoint_is_dead_lettered_alone(
    site: Site,
    api: Receiver,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    send: Sender,
    bad: str,
) -> None:
    changes, cause = BAD[bad]
    queue = send(
        site,
        api,
        [endpoint(api, "good-1"), endpoint(api, "bad", **changes), endpoint(api, "good-2")],
    )
    if bad != "long":
        limit(site, monkeypatch)
    site.work_off(queue, "webhooks")
    assert len(api.of("/good-1")) == len(api.of("/good-2")) == 1
    assert site.dead(queue) == []
    (letter,) = site.dead("webhooks")
    assert letter.failure.reason is Reason.INVALID
    assert cause in letter.failure.message
    assert letter.message.kwargs["payload"]["endpointId"] == "bad"
    assert letter.message.kwargs["metadata"]["formId"] == "form-1"
    assert SECRET not in repr(letter.failure)
    assert SECRET not in lines.text
    assert {line["attempt"] for line in lines.attempts()} == {1}


@pytest.mark.parametrize("send", [by_api, by_payment], ids=lambda send: send.__name__)
@pytest.mark.parametrize(
    "bad",
    [
        {"url": None},
        {"secret": None},
        {"secret": True},
        {"method": "DELETE"},
        {"method": ["POST"]},
        {"headers": ["X-A"]},
        {"headers": {"X-A": None}},
        "https://example.com",
        None,
    ],
    ids=str,
)
def test_a_malformed_endpoint_of_the_api_is_dead_lettered_alone(
    site: Site, api: Receiver, send: Sender, bad: Any
) -> None:
    wrong = endpoint(api, "bad", **bad) if isinstance(bad, dict) else bad
    queue = send(site, api, [wrong, endpoint(api, "good")])
    site.work_off(queue, "webhooks")
    assert len(api.of("/good")) == 1
    assert site.dead(queue) == []
    (letter,) = site.dead("webhooks")
    assert letter.failure.message.startswith("deliver_webhook: payload")


def test_a_submission_too_deep_for_its_webhooks_makes_dead_letters(
    site: Site, api: Receiver
) -> None:
    deep: Any = "x"
    for _ in range(195):
        deep = [deep]
    api.answers(PATH, then=Answer(201, {"id": "sub-1", "status": "completed"}))
    endpoints = [endpoint(api, "a"), endpoint(api, "b")]
    site.actors.save_submission.send(submission(answers={"a": deep}, webhooks=endpoints))
    site.work_off("submissions", "webhooks")
    assert site.dead("submissions") == []
    letters = site.dead("webhooks")
    assert {one.message.kwargs["payload"]["endpointId"] for one in letters} == {"a", "b"}
    assert all("at most 200 levels" in one.failure.message for one in letters)


@every_sender
def test_webhooks_are_sent_again_with_the_same_ids_after_a_broker_failure(
    site: Site, api: Receiver, monkeypatch: pytest.MonkeyPatch, send: Sender
) -> None:
    monkeypatch.setattr("formrelay.brokers.base.CHUNK", 1)
    names = ["good-1", "bad", "good-2"]
    endpoints = [endpoint(api, name) for name in names]
    endpoints[1]["url"] = "ftp://example.com/"
    queue = send(site, api, endpoints)
    real, calls = site.broker._put, []

    def put(envelopes: Any) -> None:
        if envelopes[0].message.queue_name == "webhooks":
            calls.append(envelopes)
            if len(calls) == 2:
                raise BrokerUnavailable("away")
        real(envelopes)

    monkeypatch.setattr(site.broker, "_put", put)
    site.work_off(queue)
    assert site.dead(queue) == []
    payloads = [message["kwargs"]["payload"] for message in site.messages("webhooks")]
    ids = {(one["endpointId"], one["id"]) for one in payloads}
    assert sorted(name for name, _ in ids) == sorted(names)
    assert len(payloads) == 4  # the first webhook was sent before, with the same id


def test_a_webhook_refused_by_a_setting_is_delivered_by_a_later_replay(
    site: Site, api: Receiver
) -> None:
    settings = get_settings()
    strict = settings.webhooks.model_copy(update={"allow_http": False})
    use_settings(settings.model_copy(update={"webhooks": strict}))
    queue = by_submission(site, api, [endpoint(api, "hook")])
    site.work_off(queue, "webhooks")
    (letter,) = site.dead("webhooks")
    use_settings(settings)
    site.broker.replay("webhooks", letter.id)
    site.start("webhooks")
    (hook,) = wait_until(lambda: api.of("/hook"))
    assert orjson.loads(hook.body)["data"]["answers"] == {"name": "Ann"}


def test_endpoints_without_an_id_do_not_share_one(site: Site, api: Receiver) -> None:
    bare = [endpoint(api, name, id="") for name in ("a", "b")]
    site.work_off(by_api(site, api, bare))
    payloads = [message["kwargs"]["payload"] for message in site.messages("webhooks")]
    of = webhooks.endpoint_of
    assert len({of(webhooks.Webhook.model_validate(one)) for one in payloads}) == 2
