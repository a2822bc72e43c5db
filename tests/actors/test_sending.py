"""Jobs that ``send()`` accepts or refuses, and the messages that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from formrelay.brokers.envelope import encode
from formrelay.core.errors import InvalidJob
from tests.actors.conftest import Site
from tests.middleware.lines import Lines

SECRET = "SECRET-VALUE"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT = "2026-01-31T09:30:00+01:00"

EVENT: dict[str, Any] = {"type": "form.viewed", "formId": "form-1"}
SUBMISSION: dict[str, Any] = {
    "submissionId": "sub-1",
    "formId": "form-1",
    "status": "completed",
    "answers": {"name": SECRET},
    "submittedAt": AT,
}
WEBHOOK: dict[str, Any] = {
    "url": f"https://example.com/{SECRET}?key={SECRET}",
    "body": {"answer": SECRET},
    "secret": KEY,
    "headers": {"X-Token": SECRET},
}
ENDPOINT: dict[str, Any] = {"url": "https://example.com/", "secret": SECRET}

PARTIAL: dict[str, Any] = {
    "partialId": "par-1",
    "formId": "form-1",
    "sessionId": "session-1",
    "revision": 7,
    "answers": {"name": SECRET},
    "updatedAt": AT,
}
PAYMENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "payment_intent.succeeded",
    "created": 1_769_848_200,
    "data": {"object": {"id": "pi_1", "metadata": {"submissionId": "sub-1"}}},
}

GOOD = {
    "record_events": EVENT,
    "save_submission": SUBMISSION,
    "save_partial": PARTIAL,
    "update_payment": PAYMENT,
    "deliver_webhook": WEBHOOK,
}
QUEUES = {
    "record_events": "events",
    "save_submission": "submissions",
    "save_partial": "partials",
    "update_payment": "submissions",
    "deliver_webhook": "webhooks",
}


def but(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**payload, **changes}


def drop(payload: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != name}


DEEP: Any = SECRET
for _ in range(1000):
    DEEP = [DEEP]
LOOP: dict[str, Any] = {"answer": SECRET}
LOOP["loop"] = LOOP

BAD = [
    # For every actor: a payload that is not an object.
    *((name, bad, "payload") for name in ("save_submission", "deliver_webhook")
      for bad in (None, SECRET, 5, [SECRET], [], object())),
    *((name, {SECRET: SECRET}, "payload.") for name in GOOD),
    # Events.
    ("record_events", None, "payload.0"),
    ("record_events", SECRET, "payload.0"),
    ("record_events", [], "payload"),
    ("record_events", [EVENT, SECRET], "payload.1"),
    ("record_events", [EVENT, [EVENT]], "payload.1"),
    ("record_events", drop(EVENT, "type"), "payload.0.type"),
    ("record_events", drop(EVENT, "formId"), "payload.0.formId"),
    ("record_events", but(EVENT, type=""), "payload.0.type"),
    ("record_events", but(EVENT, type=SECRET * 100), "payload.0.type"),
    ("record_events", but(EVENT, type={"a": SECRET}), "payload.0.type"),
    ("record_events", but(EVENT, formId=17), "payload.0.formId"),
    ("record_events", but(EVENT, eventId=SECRET), "payload.0.eventId"),
    ("record_events", but(EVENT, occurredAt=SECRET), "payload.0.occurredAt"),
    ("record_events", but(EVENT, occurredAt="2026-01-31T09:30:00"), "payload.0.occurredAt"),
    ("record_events", but(EVENT, occurredAt="0001-01-01T00:00:00+14:00"), "payload.0.occurredAt"),
    ("record_events", but(EVENT, occurredAt="9999-12-31T23:59:59-12:00"), "payload.0.occurredAt"),
    ("record_events", but(EVENT, occurredAt="1969-12-31T23:59:59Z"), "payload.0.occurredAt"),
    ("record_events", but(EVENT, occurredAt="2106-01-01T00:00:00Z"), "payload.0.occurredAt"),
    ("record_events", but(EVENT, properties=[SECRET]), "payload.0.properties"),
    ("record_events", but(EVENT, properties={"a": {SECRET}}), "payload.0.properties"),
    ("record_events", but(EVENT, properties={5: SECRET}), "payload.0.properties"),
    ("record_events", but(EVENT, properties={"a": DEEP}), "payload.0.properties"),
    ("record_events", but(EVENT, properties=LOOP), "payload.0.properties"),
    ("record_events", but(EVENT, sessionId=[SECRET]), "payload.0.sessionId"),
    ("record_events", but(EVENT, extra={SECRET}), "payload.0.extra"),
    ("record_events", [EVENT] * 3 + [drop(EVENT, "type")], "payload.3.type"),
    # Submissions.
    *(("save_submission", drop(SUBMISSION, name), f"payload.{name}") for name in SUBMISSION),
    ("save_submission", but(SUBMISSION, status=SECRET), "payload.status"),
    ("save_submission", but(SUBMISSION, answers=SECRET), "payload.answers"),
    ("save_submission", but(SUBMISSION, answers={"a": object()}), "payload.answers"),
    ("save_submission", but(SUBMISSION, answers={"a": SECRET.encode()}), "payload.answers"),
    ("save_submission", but(SUBMISSION, answers={f"{SECRET}!": object()}), "payload.answers.…"),
    ("save_submission", but(SUBMISSION, answers={SECRET * 9: object()}), "payload.answers.…"),
    ("save_submission", but(SUBMISSION, submittedAt="2026-01-31T09:30:00"), "payload.submittedAt"),
    ("save_submission", but(SUBMISSION, submissionId=""), "payload.submissionId"),
    ("save_submission", but(SUBMISSION, webhooks=SECRET), "payload.webhooks"),
    ("save_submission", but(SUBMISSION, webhooks=[{"url": SECRET}]), "payload.webhooks.0"),
    (
        "save_submission",
        but(SUBMISSION, webhooks=[ENDPOINT, but(ENDPOINT, method=SECRET)]),
        "payload.webhooks.1",
    ),
    # Partials.
    *(("save_partial", drop(PARTIAL, name), f"payload.{name}") for name in PARTIAL),
    ("save_partial", but(PARTIAL, revision=-1), "payload.revision"),
    ("save_partial", but(PARTIAL, revision=2**63), "payload.revision"),
    ("save_partial", but(PARTIAL, answers={"a": object()}), "payload.answers"),
    ("save_partial", but(PARTIAL, webhook={"url": SECRET}), "payload.webhook"),
    # Payments.
    *(("update_payment", drop(PAYMENT, name), f"payload.{name}")
      for name in ("id", "type", "created", "data")),
    ("update_payment", but(PAYMENT, type=SECRET), "payload.type"),
    ("update_payment", but(PAYMENT, created=-1), "payload.created"),
    ("update_payment", but(PAYMENT, type=""), "payload.type"),
    ("update_payment", but(PAYMENT, data={"object": [SECRET]}), "payload.data"),
    ("update_payment", but(PAYMENT, data={"object": {"metadata": SECRET}}), "payload.data"),
    ("update_payment", but(PAYMENT, data={"object": {"metadata": {"submissionId": "a b"}}}),
     "payload.data"),
    # Webhooks.
    ("deliver_webhook", drop(WEBHOOK, "url"), "payload.url"),
    ("deliver_webhook", drop(WEBHOOK, "body"), "payload.body"),
    ("deliver_webhook", drop(WEBHOOK, "secret"), "payload"),
    ("deliver_webhook", but(WEBHOOK, secret=""), "payload"),
    ("deliver_webhook", but(WEBHOOK, secret=f"whsec_{SECRET}"), "payload"),
    ("deliver_webhook", but(WEBHOOK, secret="whsec_é" + SECRET), "payload"),
    *(
        ("deliver_webhook", but(WEBHOOK, secret=bad), "payload")
        for bad in (f"{SECRET}\n", f" {KEY}", f"{KEY} ", f"{SECRET}\0", f"whsk_{SECRET}",
                    f"v1a,whsk_{SECRET}", f"WHSEC_{SECRET}", f"v1,{SECRET}", f"v1,whsec_{SECRET}")
    ),
    ("deliver_webhook", but(WEBHOOK, secrets=[SECRET]), "payload"),
    ("deliver_webhook", but(drop(WEBHOOK, "secret"), secrets=[]), "payload"),
    ("deliver_webhook", but(WEBHOOK, url=SECRET), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, url=f"ftp://example.com/{SECRET}"), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, url=f"https://{SECRET}@example.com/"), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, url=f"https://example.com/\n{SECRET}"), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, url="https://example.com/" + SECRET * 1000), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, url="https://ex ample.com/" + SECRET), "payload.url"),
    ("deliver_webhook", but(WEBHOOK, method="DELETE"), "payload.method"),
    ("deliver_webhook", but(WEBHOOK, id=f"{SECRET}.x"), "payload.id"),
    ("deliver_webhook", but(WEBHOOK, id=f"{SECRET}\n"), "payload.id"),
    ("deliver_webhook", but(WEBHOOK, id=""), "payload.id"),
    ("deliver_webhook", but(WEBHOOK, body={SECRET}), "payload.body"),
    ("deliver_webhook", but(WEBHOOK, body=LOOP), "payload.body"),
    *(
        ("deliver_webhook", but(WEBHOOK, headers={name: SECRET}), "payload.headers")
        for name in (
            "Host", "content-length", "Transfer-Encoding", "Connection", "webhook-id",
            "Webhook-Signature", "webhook-anything", "Content-Encoding", "Bad Name", "",
        )
    ),
    ("deliver_webhook", but(WEBHOOK, headers={"X": f"{SECRET}\r\nHost: x"}), "payload.headers"),
    ("deliver_webhook", but(WEBHOOK, headers={"X": f"{SECRET}\0"}), "payload.headers"),
    ("deliver_webhook", but(WEBHOOK, headers={"X": f"{SECRET} €"}), "payload.headers"),
    *(
        ("deliver_webhook", but(WEBHOOK, headers={"Content-Type": kind}), "payload.headers")
        for kind in (SECRET, "", f"text/plain; {SECRET}", "application/x-www-form-urlencoded",
                     "application/jsonp", "application/json, text/plain")
    ),
    ("deliver_webhook", but(WEBHOOK, headers={"X": SECRET, "x": SECRET}), "payload.headers"),
    ("deliver_webhook", but(WEBHOOK, headers={"X": 5}), "payload.headers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("actor", "payload", "field"), BAD, ids=[f"{a}-{f}-{n}" for n, (a, _, f) in enumerate(BAD)]
)
def test_the_error_for_an_invalid_payload_names_the_field_and_nothing_is_enqueued(
    site: Site, lines: Lines, actor: str, payload: Any, field: str
) -> None:
    for send in (
        lambda: getattr(site.actors, actor).send(payload),
        lambda: getattr(site.actors, actor).send(payload=payload, metadata={"note": SECRET}),
        lambda: site.actors.enqueue_many(getattr(site.actors, actor), [{"payload": payload}]),
    ):
        with pytest.raises(InvalidJob) as caught:
            send()
        text = str(caught.value)
        assert text.startswith(f"{actor}: {field}"), text
        assert SECRET not in text
        assert len(text) < 1000
        # It is not attached to the error either, where a traceback would print it.
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert site.waiting() == 0
    assert SECRET not in lines.text


@pytest.mark.parametrize("actor", GOOD)
@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        (SECRET, "metadata"),
        ([SECRET], "metadata"),
        ({"version": 0}, "metadata.version"),
        ({"version": SECRET}, "metadata.version"),
        ({"formId": [SECRET]}, "metadata.formId"),
        ({"retryCount": SECRET}, "metadata.retryCount"),
        ({"note": object()}, "metadata.note"),
    ],
)
def test_the_error_for_invalid_metadata_names_the_field(
    site: Site, actor: str, metadata: Any, field: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        getattr(site.actors, actor).send(GOOD[actor], metadata)
    assert str(caught.value).startswith(f"{actor}: {field}")
    assert SECRET not in str(caught.value)
    assert site.waiting() == 0


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {"paylod": EVENT}, "got paylod as well"),
        ((EVENT,), {"payload": EVENT}, "each once"),
        ((EVENT, {}, 3), {}, "each once"),
        ((EVENT,), {"self": 1}, "got self as well"),
        ((), {"batch": [EVENT]}, "got batch as well"),
    ],
)
def test_the_error_for_other_arguments_names_them(
    site: Site, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidJob, match=text):
        site.actors.record_events.message_with_options(args=args, kwargs=kwargs)
    assert site.waiting() == 0


def test_a_number_that_is_not_finite_or_too_large_is_refused(site: Site) -> None:
    for value in (float("nan"), float("inf"), 2**64):
        with pytest.raises(InvalidJob, match=r"expected (arguments that JSON can hold|JSON, got)"):
            site.actors.record_events.send(but(EVENT, properties={"a": value}))
    assert site.waiting() == 0


# -- the stored message --------------------------------------------------------------------


@pytest.mark.parametrize("actor", GOOD)
def test_the_stored_message_has_dramatiqs_format(site: Site, actor: str) -> None:
    sent = getattr(site.actors, actor).send(GOOD[actor], {"formId": "form-1"})
    (message,) = site.messages(QUEUES[actor])
    assert message["message_id"] == sent.message_id
    assert (message["actor_name"], message["args"]) == (actor, [])
    assert message["kwargs"]["metadata"] == {"formId": "form-1", "version": 1}
    payload = message["kwargs"]["payload"]
    first = payload[0] if isinstance(payload, list) else payload
    assert GOOD[actor].items() <= first.items()


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@pytest.mark.parametrize(
    "actor", [name for name in GOOD if name != "update_payment"]
)  # its field names are Stripe's
def test_snake_case_is_accepted_and_camel_case_is_written(site: Site, actor: str) -> None:
    fixed = {
        "record_events": {"eventId": str(UUID(int=7)), "occurredAt": AT, "sessionId": "s"},
        "save_submission": {"webhooks": [{**ENDPOINT, "id": "e"}]},
        "save_partial": {"webhook": {**ENDPOINT, "id": "e"}},
        "deliver_webhook": {"endpointId": "e", "id": "w"},
    }[actor]
    camel = {**GOOD[actor], **fixed}
    snaked = {snake(name): value for name, value in camel.items()}
    assert snaked.keys() != camel.keys()
    send = getattr(site.actors, actor).send
    send(camel, {"formId": "f", "submissionId": "s"})
    send(payload=snaked, metadata={"form_id": "f", "submission_id": "s"})
    first, second = (message["kwargs"] for message in site.messages(QUEUES[actor]))
    assert first == second
    assert "_" not in "".join(first["metadata"])


def test_missing_optional_fields_are_not_written(site: Site) -> None:
    site.actors.record_events.send(but(EVENT, submissionId=None))
    site.actors.save_submission.send(SUBMISSION)
    (events,) = site.messages("events")
    assert "submissionId" not in events["kwargs"]["payload"][0]
    assert "webhooks" not in site.messages("submissions")[0]["kwargs"]["payload"]


def test_a_null_body_is_written_because_it_is_required(site: Site) -> None:
    site.actors.deliver_webhook.send(but(WEBHOOK, body=None))
    (message,) = site.messages("webhooks")
    assert message["kwargs"]["payload"]["body"] is None


def test_unknown_keys_are_kept_in_payload_and_metadata(site: Site) -> None:
    site.actors.record_events.send({**EVENT, "campaign": {"id": 5}}, {"tenant": "t", "x": [1]})
    (message,) = site.messages("events")
    assert message["kwargs"]["payload"][0]["campaign"] == {"id": 5}
    assert message["kwargs"]["metadata"] == {"tenant": "t", "x": [1], "version": 1}


def test_defaults_are_set_at_send(site: Site) -> None:
    before = datetime.now(UTC)
    site.actors.record_events.send([EVENT, EVENT])
    after = datetime.now(UTC)
    (message,) = site.messages("events")
    one, other = message["kwargs"]["payload"]
    assert one["eventId"] != other["eventId"]
    assert UUID(one["eventId"]).version == 4
    assert before <= datetime.fromisoformat(one["occurredAt"]) <= after


def test_a_single_event_is_written_as_a_list(site: Site) -> None:
    site.actors.record_events.send(EVENT)
    (message,) = site.messages("events")
    assert isinstance(message["kwargs"]["payload"], list)


def test_a_payload_is_unchanged_by_storage_and_a_second_validation(site: Site) -> None:
    for actor, payload in GOOD.items():
        first = getattr(site.actors, actor).message(payload)
        again = getattr(site.actors, actor).message(**json.loads(encode(first))["kwargs"])
        assert again.kwargs == first.kwargs


def test_options_of_dramatiq_still_work(site: Site) -> None:
    site.actors.record_events.send_with_options(args=(EVENT,), delay=60_000)
    assert site.broker.counts("events").scheduled == 1
    assert site.waiting() == 0


# -- enqueue_many --------------------------------------------------------------------------


def test_enqueue_many_accepts_a_generator_and_returns_the_number(site: Site) -> None:
    def jobs() -> Iterator[dict[str, Any]]:
        for number in range(1300):
            yield {"payload": but(EVENT, properties={"n": number}), "metadata": {"n": number}}

    assert site.actors.enqueue_many(site.actors.record_events, jobs()) == 1300
    messages = site.messages("events")
    assert [one["kwargs"]["metadata"]["n"] for one in messages] == list(range(1300))


def test_enqueue_many_of_no_jobs_returns_zero(site: Site) -> None:
    assert site.actors.enqueue_many(site.actors.record_events, []) == 0


def test_an_invalid_job_ends_enqueue_many_after_the_chunks_before_it(
    site: Site,
) -> None:
    def jobs() -> Iterator[dict[str, Any]]:
        for number in range(2000):
            bad = number == 1234
            yield {"payload": drop(EVENT, "type") if bad else EVENT, "metadata": {"n": number}}
            assert number <= 1234, "read on after the invalid job"

    with pytest.raises(InvalidJob, match=r"payload\.0\.type"):
        site.actors.enqueue_many(site.actors.record_events, jobs())
    sent = [one["kwargs"]["metadata"]["n"] for one in site.messages("events")]
    # Complete chunks, in order, without a gap.
    assert sent == list(range(len(sent)))
    assert 0 < len(sent) <= 1234
    assert len(sent) % 500 == 0


@pytest.mark.parametrize("job", [{}, {"metadata": {}}, {"paylod": EVENT}, {"payload": None}])
def test_a_job_without_its_payload_is_invalid(site: Site, job: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="record_events"):
        site.actors.enqueue_many(site.actors.record_events, [job])
    assert site.waiting() == 0


def test_a_direct_call_of_an_actor_validates_the_job(site: Site) -> None:
    with pytest.raises(InvalidJob, match=r"save_submission: payload\.status"):
        site.actors.save_submission(payload=drop(SUBMISSION, "status"))
