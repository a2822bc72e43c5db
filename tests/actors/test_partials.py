"""Partials and payments through a worker into the Django site of the examples."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import orjson
import pytest
import requests
from pydantic import SecretStr

from formrelay.core.errors import InvalidJob, SinkPermanent
from formrelay.core.failure import Reason
from formrelay.sinks import api as sink
from tests.actors.conftest import Site
from tests.middleware.lines import Lines
from tests.sinks.wire import Wire, answer, serving
from tests.support.servers.django_site import DjangoSite
from tests.support.waiting import wait_until

AT = "2026-01-31T09:30:00Z"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENDPOINT = {"id": "end-1", "url": "https://example.com/1", "secret": KEY}


@pytest.fixture(scope="module")
def django() -> Iterator[DjangoSite]:
    with DjangoSite() as django:
        yield django


class Api:
    """Reads the site's data by HTTP, and counts the worker's requests."""

    def __init__(self, django: DjangoSite) -> None:
        self._django = django

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(
            method,
            f"{self._django.url}/api/v1/{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._django.token}"},
            timeout=30,
        )
        return answer.json()

    def status(self, id: str) -> str:
        return str(self("GET", f"submissions/{id}/")["status"])


@pytest.fixture
def api(site: Site, django: DjangoSite) -> Api:
    site.use(
        api={"url": django.url, "token": SecretStr(django.token)},
        clickhouse={"url": SecretStr("clickhouse://127.0.0.1:1")},
    )
    return Api(django)


def partial(id: str, revision: int, **changes: Any) -> dict[str, Any]:
    base = {
        "partialId": id,
        "formId": "form-1",
        "sessionId": f"session-{id}",
        "revision": revision,
        "answers": {"n": revision},
        "updatedAt": AT,
    }
    return base | changes


def payloads(site: Site, queue: str) -> list[Any]:
    return [message["kwargs"]["payload"] for message in site.messages(queue)]


# -- partials ------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_waiting_autosaves_only_the_newest_is_written(
    site: Site, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = sink.Api.save_partial

    def counted(self: Any, id: str, payload: Any) -> bool:
        asked.append(id)
        return bool(real(self, id, payload))

    monkeypatch.setattr(sink.Api, "save_partial", counted)
    # One batch of all, no matter how long a busy machine takes to fetch them.
    options = site.broker.actors["save_partial"].options
    monkeypatch.setitem(options, "batch_wait", timedelta(minutes=1))
    monkeypatch.setitem(options, "batch_size", 3_000)
    saves = [partial(f"p{n % 500}", n // 500) for n in range(3_000)]
    random.Random(7).shuffle(saves)
    site.actors.enqueue_many(site.actors.save_partial, ({"payload": one} for one in saves))
    site.work_off("partials")
    assert len(asked) == 500
    for n in range(0, 500, 37):
        assert api("GET", f"partials/p{n}/")["revision"] == 5
    assert site.dead("partials") == []
    # Each written revision is an event, which has the same id if it is sent again.
    events = [event for payload in payloads(site, "events") for event in payload]
    assert {event["properties"]["revision"] for event in events} >= {5}
    assert len({event["eventId"] for event in events}) == len(events) == 500


def test_an_older_revision_changes_nothing_and_sends_no_webhook(site: Site, api: Api) -> None:
    for revision in (5, 3):
        site.actors.save_partial.send(partial("late", revision, webhook=ENDPOINT))
        site.work_off("partials")
    assert api("GET", "partials/late/")["answers"] == {"n": 5}
    (webhook,) = payloads(site, "webhooks")
    assert webhook["body"]["data"]["revision"] == 5
    assert "webhook" not in webhook["body"]["data"]
    assert site.dead("partials") == []


def test_a_repeated_revision_sends_the_same_webhook_id(site: Site, api: Api) -> None:
    for _ in range(2):
        site.actors.save_partial.send(partial("again", 1, webhook=ENDPOINT))
        site.work_off("partials")
    one, other = payloads(site, "webhooks")
    assert one["id"] == other["id"]


def test_a_partial_that_the_api_refuses_is_dead_lettered_alone(site: Site) -> None:
    def answering(wire: Wire, connection: socket.socket) -> bool:
        status = 422 if b"/refused/" in wire.requests[-1] else 200
        return answer(status, b"{}")(wire, connection)

    with serving(answering) as wire:
        site.use(api={"url": wire.url})
        ids = ("good-1", "refused", "good-2")
        encoded = (site.actors.save_partial.message(partial(id, 1)).encode() for id in ids)
        site.inject("partials", *encoded)
        site.work_off("partials")
        asked = {request.split(b" ", 2)[1] for request in wire.requests}
    assert asked == {f"/api/v1/partials/{id}/".encode() for id in ids}
    (letter,) = site.dead("partials")
    assert letter.failure.reason is Reason.PERMANENT
    assert "refused" in str(letter.message.kwargs)


def test_an_unavailable_api_or_a_refused_token_uses_no_attempt(
    site: Site, api: Api, django: DjangoSite, lines: Lines
) -> None:
    site.use(api={"url": django.url, "token": SecretStr("being-rotated")})
    for revision in range(5):
        site.actors.save_partial.send(partial("rotated", revision))
    site.start("partials")
    wait_until(lambda: lines.of("pausing consumption: the API is unavailable"))
    (alert,) = lines.of("pausing consumption: the API is unavailable")
    assert (alert["level"], alert["sink"], alert["code"]) == ("ERROR", "api", 401)
    site.use(api={"url": django.url, "token": SecretStr(django.token)})
    wait_until(lambda: site.is_idle("partials"))
    assert api("GET", "partials/rotated/")["revision"] == 4
    assert site.dead("partials") == []
    assert {line["attempt"] for line in lines.attempts()} == {1}


# -- payments ------------------------------------------------------------------------------


def stripe(id: str, type: str, created: int, **about: Any) -> dict[str, Any]:
    return {
        "id": f"evt_{created}",
        "object": "event",
        "type": type,
        "created": created,
        "data": {"object": {"id": "pi_1", "metadata": {"submissionId": id}, **about}},
    }


def submit(site: Site, id: str, status: str = "pending_payment") -> None:
    site.actors.save_submission.send(
        {
            "submissionId": id,
            "formId": "paid",
            "status": status,
            "answers": {"name": "Ann"},
            "submittedAt": AT,
        }
    )


PAID, FAILED, REFUNDED = (
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "charge.refunded",
)


@pytest.fixture
def hooked(api: Api) -> Api:
    api("PUT", "forms/paid/webhooks/", [ENDPOINT])
    return api


def test_a_payment_completes_its_submission_and_sends_its_webhooks(site: Site, hooked: Api) -> None:
    submit(site, "sub-1")
    site.work_off("submissions")
    assert payloads(site, "webhooks") == []
    site.actors.update_payment.send(stripe("sub-1", PAID, 10))
    site.work_off("submissions")
    assert hooked.status("sub-1") == "completed"
    (webhook,) = payloads(site, "webhooks")
    assert webhook["body"]["type"] == "submission.completed"
    assert webhook["body"]["data"] == {
        "submissionId": "sub-1",
        "formId": "paid",
        "answers": {"name": "Ann"},
    }


def test_duplicate_late_and_reordered_events_send_one_webhook(site: Site, hooked: Api) -> None:
    submit(site, "sub-2")
    site.work_off("submissions")
    for type, created in ((PAID, 20), (FAILED, 10), (PAID, 20), (REFUNDED, 30), (PAID, 20)):
        site.actors.update_payment.send(stripe("sub-2", type, created))
        site.work_off("submissions")
    assert hooked.status("sub-2") == "refunded"
    # The duplicate event sent a duplicate with the same id; the refund sent no webhook.
    ids = [webhook["id"] for webhook in payloads(site, "webhooks")]
    assert len(set(ids)) == 1
    assert site.dead("submissions") == []


def test_a_payment_before_its_submission_waits_for_it(
    site: Site, hooked: Api, lines: Lines
) -> None:
    site.actors.update_payment.send(stripe("sub-3", PAID, 10))
    site.start("submissions")
    # More often than the three attempts that other failures have.
    wait_until(lambda: len(lines.attempts()) >= 4)
    submit(site, "sub-3")
    wait_until(lambda: site.is_idle("submissions"))
    assert hooked.status("sub-3") == "completed"
    assert len(payloads(site, "webhooks")) == 1


@pytest.mark.parametrize(
    ("type", "about"),
    [
        ("checkout.session.completed", {"payment_status": "unpaid"}),
        (REFUNDED, {"refunded": False}),
    ],
)
def test_an_event_that_changes_nothing_makes_no_request(
    site: Site, hooked: Api, type: str, about: dict[str, Any]
) -> None:
    id = f"sub-{type}"
    submit(site, id)
    site.actors.update_payment.send(stripe(id, type, 10, **about))
    site.work_off("submissions")
    assert hooked.status(id) == "pending_payment"


@pytest.mark.parametrize(
    "bad",
    [
        stripe("", PAID, 1),
        {**stripe("sub-4", PAID, 1), "created": "yesterday"},
        {"id": "evt_1", "type": PAID, "created": 1},
    ],
    ids=["submission", "created", "data"],
)
def test_an_event_that_is_not_about_a_payment_is_refused(site: Site, bad: Any) -> None:
    with pytest.raises(InvalidJob, match="update_payment: payload"):
        site.actors.update_payment.send(bad)
    assert site.waiting() == 0


ODD = [
    {"sessionId": "a\0b"},
    {"formId": "a\0"},
    {"updatedAt": "1969-01-01T00:00:00Z"},
    {"updatedAt": "2300-01-01T00:00:00Z"},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_invalid_autosave_is_refused_at_send_or_dead_lettered_alone(
    site: Site, api: Api, odd: dict[str, Any]
) -> None:
    with pytest.raises(InvalidJob):
        site.actors.save_partial.send(partial("odd", 1, **odd))
    name = next(iter(odd.values()))[:6].replace("\0", "x")
    ids = [f"before-{name}", "odd", f"after-{name}"]
    for id in ids:
        payload = partial(id, 1, **(odd if id == "odd" else {}))
        body = orjson.dumps({"type": "partial.save", "payload": payload})
        site.inject("partials", body)
    site.work_off("partials")
    (letter,) = site.dead("partials")
    assert letter.failure.reason is Reason.INVALID
    events = [one for payload in payloads(site, "events") for one in payload]
    assert {one["properties"]["partialId"] for one in events} == {ids[0], ids[2]}


def test_an_api_that_fails_during_a_batch_pauses_the_queue(
    site: Site, api: Api, django: DjangoSite, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sink.Api.save_partial
    calls: list[str] = []

    def save(self: Any, id: str, payload: Any) -> bool:
        calls.append(id)
        if len(calls) == 3:
            django.kill()
        return bool(real(self, id, payload))

    monkeypatch.setattr(sink.Api, "save_partial", save)
    for n in range(20):
        site.actors.save_partial.send(partial(f"middle-{n}", 1))
    site.start("partials")
    wait_until(lambda: lines.of("pausing consumption: the API is unavailable"))
    assert len(calls) <= 5
    monkeypatch.setattr(sink.Api, "save_partial", real)
    django.start()
    wait_until(lambda: site.is_idle("partials"))
    assert all(api("GET", f"partials/middle-{n}/")["revision"] == 1 for n in range(20))
    assert site.dead("partials") == []


def test_an_autosave_too_deep_for_its_webhook_affects_no_other(site: Site, api: Api) -> None:
    deep: Any = "x"
    for _ in range(195):
        deep = [deep]
    for id in ("fine-1", "deep", "fine-2"):
        answers = {"a": deep} if id == "deep" else {"n": 1}
        site.actors.save_partial.send(partial(id, 1, answers=answers, webhook=ENDPOINT))
    site.work_off("partials")
    assert site.dead("partials") == []  # saved nevertheless
    found = payloads(site, "webhooks")
    told = {webhook["body"]["data"]["partialId"] for webhook in found if "body" in webhook}
    assert told == {"fine-1", "fine-2"}
    (refused,) = [webhook for webhook in found if "body" not in webhook]
    assert "at most 200 levels" in refused["cause"]


def test_if_the_newest_revision_is_refused_the_previous_is_written(
    site: Site, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sink.Api.save_partial

    def save(self: Any, id: str, payload: Any) -> bool:
        if payload["revision"] >= 3:
            raise SinkPermanent("the API refused it (400)", code=400)
        return bool(real(self, id, payload))

    monkeypatch.setattr(sink.Api, "save_partial", save)
    for revision in (2, 4, 1, 3):
        site.actors.save_partial.send(partial("refused", revision))
    site.work_off("partials")
    dead = {letter.message.kwargs["payload"]["revision"] for letter in site.dead("partials")}
    assert dead == {3, 4}
    assert api("GET", "partials/refused/")["revision"] == 2
