"""Misspelled keys of a job: refused when it is sent, warned of when it runs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from formrelay.actors import spelling
from formrelay.core.errors import InvalidJob
from tests.actors.conftest import Site
from tests.actors.receiver import Receiver
from tests.actors.test_sending import (
    AT,
    ENDPOINT,
    EVENT,
    GOOD,
    KEY,
    PARTIAL,
    SECRET,
    SUBMISSION,
    WEBHOOK,
    but,
    drop,
)
from tests.middleware.lines import Lines

MISSPELLED: list[tuple[str, Any, str, str]] = [
    ("deliver_webhook", but(WEBHOOK, metod="PUT"), "payload.metod", "method"),
    ("deliver_webhook", but(WEBHOOK, Method="PUT"), "payload.Method", "method"),
    ("deliver_webhook", but(drop(WEBHOOK, "headers"), header={}), "payload.header", "headers"),
    ("deliver_webhook", but(WEBHOOK, endpoint="e"), "payload.endpoint", "endpointId"),
    ("deliver_webhook", but(WEBHOOK, endpointID="e"), "payload.endpointID", "endpointId"),
    ("deliver_webhook", but(WEBHOOK, signature_syle="stripe"), "payload.", "signatureStyle"),
    ("deliver_webhook", but(WEBHOOK, ID="1"), "payload.ID", "id"),
    ("record_events", but(EVENT, ocurredAt=AT), "payload.0.ocurredAt", "occurredAt"),
    ("record_events", [EVENT, but(EVENT, session="s")], "payload.1.session", "sessionId"),
    ("record_events", but(EVENT, propertys={}), "payload.0.propertys", "properties"),
    ("save_submission", but(SUBMISSION, webhook=[ENDPOINT]), "payload.webhook", "webhooks"),
    (
        "save_submission",
        but(SUBMISSION, webhooks=[ENDPOINT, but(ENDPOINT, metod="PUT")]),
        "payload.webhooks.1.metod",
        "method",
    ),
    ("save_partial", but(PARTIAL, webhooks=ENDPOINT), "payload.webhooks", "webhook"),
    (
        "save_partial",
        but(PARTIAL, webhook=but(ENDPOINT, hedaers={})),
        "payload.webhook.",
        "headers",
    ),
]


@pytest.mark.parametrize(("actor", "payload", "key", "meant"), MISSPELLED)
def test_a_misspelled_key_is_refused_at_send_with_the_name_of_the_field(
    site: Site, actor: str, payload: Any, key: str, meant: str
) -> None:
    for send in (
        lambda: getattr(site.actors, actor).send(payload),
        lambda: site.actors.enqueue_many(getattr(site.actors, actor), [{"payload": payload}]),
    ):
        with pytest.raises(InvalidJob) as caught:
            send()
        text = str(caught.value)
        assert text.startswith(f"{actor}: {key}"), text
        assert text.endswith(f"unknown key, probably misspelled: write {meant}")
        assert SECRET not in text
    assert site.waiting() == 0


@pytest.mark.parametrize("actor", GOOD)
@pytest.mark.parametrize(
    ("key", "meant"),
    [("idempotency", "idempotencyKey"), ("form_ID", "formId"), ("verison", "version")],
)
def test_a_misspelled_key_of_the_metadata_is_refused_at_send(
    site: Site, actor: str, key: str, meant: str
) -> None:
    with pytest.raises(InvalidJob, match=f"{actor}: metadata.{key}: .*: write {meant}$"):
        getattr(site.actors, actor).send(GOOD[actor], {key: "x"})
    assert site.waiting() == 0


@pytest.mark.parametrize(
    ("actor", "extra"),
    [
        ("deliver_webhook", {"campaign": 1, "retries": 2, "timeout": 3, "ids": [], "tenant": "t"}),
        # Resembles only fields that are given.
        ("deliver_webhook", {"method": "PUT", "methods": ["PUT"], "secretes": 1, "secrets": None}),
        ("record_events", {"source": "web", "url": "/", "user_id": 5, "types": [], "sessions": 2}),
        ("save_submission", {"formVersion": 2, "createdAt": AT, "answer": "x", "x" * 100: 1}),
        ("save_partial", {"savedAt": AT, "revisions": 1}),
        # All other keys of an event are Stripe's.
        (
            "update_payment",
            {"Data": 1, "idd": 2, "data": {"object": {"metadata": None, "meta_data": {}}}},
        ),
    ],
)
def test_other_unknown_keys_are_kept(site: Site, actor: str, extra: dict[str, Any]) -> None:
    payload = but(GOOD[actor], **extra)
    sent = getattr(site.actors, actor).message(payload, {"tracestate": "a=b", "tenant": "t"})
    found = sent.kwargs["payload"]
    found = found[0] if isinstance(found, list) else found
    assert {name: found.get(name) for name in extra} == extra
    assert sent.kwargs["metadata"]["tenant"] == "t"


def test_a_job_of_another_publisher_runs_and_its_misspelled_keys_are_warned_of_once(
    site: Site, receiver: Receiver, lines: Lines
) -> None:
    spelling._warn.cache_clear()
    payload = {"url": f"{receiver.url}/hook", "body": {}, "secret": KEY, "metod": SECRET}
    job = {"type": "webhook.send", "payload": payload, "metadata": {"formID": "f"}}
    site.inject("webhooks", *[orjson.dumps(job)] * 3)
    endpoints = [but(ENDPOINT, metod="PUT"), but(ENDPOINT, url="https://b", metod="PUT")]
    partial = but(PARTIAL, answer={}, webhook=but(ENDPOINT, metod="PUT"))
    site.inject("submissions", orjson.dumps({
        "type": "submission.save", "payload": but(SUBMISSION, webhooks=endpoints)
    }))  # fmt: skip
    site.inject("partials", orjson.dumps({"type": "partial.save", "payload": partial}))
    site.use(api={"url": receiver.url})
    site.work_off("webhooks")
    assert len(receiver.of("/hook")) == 3
    assert site.dead("webhooks") == []
    site.work_off("submissions", "partials")
    warned = lines.of("unknown key in a job, probably misspelled")
    assert sorted((line["actor"], line["key"], line["nearest"]) for line in warned) == [
        ("deliver_webhook", "metadata.formID", "formId"),
        ("deliver_webhook", "payload.metod", "method"),
        ("save_partial", "payload.webhook.metod", "method"),
        ("save_submission", "payload.webhooks.metod", "method"),
    ]
    assert {line["level"] for line in warned} == {"WARNING"}
    assert SECRET not in lines.text
