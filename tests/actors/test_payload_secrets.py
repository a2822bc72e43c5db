"""Encrypted secrets of payloads: what Redis holds, what actors get, and missing keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from formrelay.actors.payload_secrets import ENCRYPTED, PLACE
from formrelay.actors.webhooks import resources as deliveries
from formrelay.core.encryption import key_id
from formrelay.core.errors import InvalidJob
from formrelay.core.failure import Reason
from formrelay.ops.cli.app import app
from formrelay.ops.doctor.encryption import check_encryption
from formrelay.ops.editing import NotEditable, edited
from formrelay.ops.erase.run import Erasure
from formrelay.ops.erase.subject import Subject
from formrelay.ops.resending import resend_webhook
from formrelay.state.worker_reports import WorkerReport
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.config.test_state_key import new_key
from tests.middleware.lines import Lines
from tests.support.redis_dump import dump
from tests.support.waiting import wait_until

#: In each secret of the jobs below.
MARK = "MARKED"
#: In values that are not secret.
PLAIN = "PLAIN"
KEY, OTHER = new_key(), new_key()
AT = "2026-01-31T09:30:00Z"
ENDPOINT = {
    "secret": f"{MARK}-secret",
    "headers": {"X-Token": f"{MARK}-header"},
}


def encrypt(site: Site, *keys: str, enabled: bool = True, **sections: Any) -> None:
    text = SecretStr(",".join(keys or (KEY,)))
    site.use(encryption={"keys": text, "enabled": enabled}, **sections)


def dumped(site: Site) -> str:
    """Everything in Redis."""
    return dump(site.broker.client).decode(errors="replace")  # type: ignore[attr-defined]


def webhook(url: str, **changes: Any) -> dict[str, Any]:
    body = {"answer": PLAIN}
    return {**ENDPOINT, "url": f"{url}/{MARK}/hook?token={MARK}", "body": body, **changes}


def jobs(url: str) -> list[tuple[str, dict[str, Any]]]:
    """A job of each actor whose payloads have secrets: every secret has the mark."""
    endpoint = {**ENDPOINT, "id": "e", "url": f"{url}/{MARK}/hook"}
    answers = {"q": PLAIN}
    form = {"formId": "f", "answers": answers}
    secrets = [f"{MARK}-1", f"{MARK}-2"]
    return [
        ("deliver_webhook", webhook(url)),
        ("deliver_webhook", webhook(url, secret=None, secrets=secrets)),
        (
            "save_submission",
            {"submissionId": "s", "status": "draft", "submittedAt": AT, "webhooks": [endpoint]}
            | form,
        ),
        (
            "save_partial",
            {"partialId": "p", "sessionId": "s", "revision": 1, "updatedAt": AT}
            | {"webhook": endpoint, **form},
        ),
        (
            "send_email",
            {
                "to": ["ann@example.com"],
                "subject": PLAIN,
                "template": "notice",
                "data": {"link": f"https://example.com/?{MARK}"},
                "attachments": [{"filename": "a", "url": f"https://example.com/{MARK}"}],
                "unsubscribeUrl": f"https://example.com/{MARK}",
            },
        ),
        (
            "update_sheet",
            {"spreadsheetId": "book", "range": "Tab", "answers": answers}
            | {"auth": {"access_token": f"{MARK}-a", "refresh_token": f"{MARK}-r"}},
        ),
        (
            "update_payment",
            {
                "id": "evt",
                "type": "payment_intent.succeeded",
                "created": 1,
                "data": {
                    "object": {"client_secret": MARK, "metadata": {"submissionId": "s"}, "a": PLAIN}
                },
            },
        ),
    ]


def send_all(site: Site, url: str, delay: int | None = None) -> list[str]:
    """Send a job to each actor; returns the ids of the messages."""
    actors = site.broker.actors
    return [
        actors[name].send_with_options(kwargs={"payload": payload}, delay=delay).message_id
        for name, payload in jobs(url)
    ]


def test_redis_holds_no_secret_while_jobs_wait_run_fail_and_are_kept(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, short_pauses: None
) -> None:
    seen: list[str] = []
    take = receiver.take

    def look(request: Any) -> Answer:
        seen.append(dumped(site))
        return take(request)

    monkeypatch.setattr(receiver, "take", look)
    for path in ("submissions/", "partials/p/", "submissions/s/payment/"):
        receiver.answers(f"/api/v1/{path}", Answer(500), then=Answer(422))
    kept = {"keep_delivered": timedelta(days=1)}
    encrypt(site, api={"url": receiver.url}, webhooks=kept)
    # Unencrypted jobs of others are encrypted when they are written again.
    for name, payload in jobs(receiver.url)[:1]:
        other = {"url": f"{receiver.url}/{MARK}/down", "id": "plain"}
        receiver.answers(f"/{MARK}/down", then=Answer(410))
        body = {"type": site.broker.actors[name].options["job_type"], "payload": payload | other}
        site.inject("webhooks", orjson.dumps(body))
    assert MARK in dumped(site)
    site.work_off("webhooks")
    assert [letter.message.kwargs["payload"]["id"] for letter in site.dead("webhooks")] == ["plain"]
    assert (MARK in dumped(site), PLAIN in dumped(site)) == (False, True)
    seen.clear()
    sent = send_all(site, receiver.url)
    send_all(site, receiver.url, delay=3_600_000)
    seen.append(dumped(site))
    site.start()
    registry = deliveries.endpoint_registry()
    expected = {"submissions": 2, "partials": 1, "emails": 1, "sheets": 1}
    wait_until(lambda: all(len(site.dead(name)) >= n for name, n in expected.items()))
    wait_until(lambda: len(receiver.of(f"/{MARK}/hook?token={MARK}")) == 2)
    site.stop()
    seen.append(dumped(site))
    assert all(registry.kept(f"msg_{id}") for id in sent[:2])
    assert len(seen) > 6  # with each attempt of the API
    assert not any(MARK in each for each in seen)
    assert all(PLAIN in each for each in seen)
    request = receiver.of(f"/{MARK}/hook?token={MARK}")[0]
    assert request.headers["x-token"] == f"{MARK}-header"


def test_a_job_waits_for_its_key_without_an_attempt_and_then_runs(
    site: Site, receiver: Receiver, lines: Lines
) -> None:
    encrypt(site, OTHER)
    sent = site.actors.deliver_webhook.send(webhook(receiver.url, id="w"))
    payload = jobs(receiver.url)[3][1]
    site.actors.save_partial.send(payload)  # a batch
    encrypt(site, KEY, enabled=False)
    site.start("webhooks", "partials")
    wait_until(lambda: all(site.broker.counts(q).scheduled for q in ("webhooks", "partials")))
    site.stop()
    assert not receiver.requests
    name = key_id(sent.kwargs[ENCRYPTED])
    said = lines.of("jobs wait for a key: add it to PAYLOAD_KEYS of this worker")
    assert [(line["level"], line["keyId"]) for line in said] == [("ERROR", name)]
    (entry,) = site.broker.inspector.browse("webhooks", "scheduled", limit=9).entries
    assert entry.message.options.get("retries", 0) == 0
    history = entry.message.options["attempt_history"]
    assert f"the key {name}" in str(history)
    encrypt(site, KEY, OTHER, api={"url": receiver.url})
    site.broker.inspector.run_now("webhooks", sent.message_id)
    site.start("webhooks")
    wait_until(lambda: receiver.of(f"/{MARK}/hook?token={MARK}"))
    site.stop()


@pytest.mark.parametrize("change", ["token", "url", "actor", "damaged"])
def test_an_encrypted_text_in_another_job_is_dead_lettered_and_not_decrypted(
    site: Site, receiver: Receiver, change: str
) -> None:
    encrypt(site)
    first = site.actors.deliver_webhook.message(webhook(receiver.url))
    kwargs = orjson.loads(orjson.dumps(first.kwargs))
    if change == "url":
        kwargs["payload"]["url"] = f"{receiver.url}/mine"
    elif change == "token":  # of another job, whose places have the same digests
        other = site.actors.deliver_webhook.message(webhook(receiver.url, body={"a": 1}))
        kwargs[ENCRYPTED] = other.kwargs[ENCRYPTED]
    elif change == "damaged":
        kwargs[ENCRYPTED] = kwargs[ENCRYPTED][:-9] + "AAAAAAAA="
    else:
        email = site.actors.send_email.message(jobs("")[4][1])
        kwargs[ENCRYPTED] = email.kwargs[ENCRYPTED]
    site.broker.enqueue(first.copy(kwargs=kwargs))
    site.work_off("webhooks")
    (letter,) = site.dead("webhooks")
    assert letter.failure.reason is Reason.INVALID
    assert "expected the encrypted secrets of this job" in letter.failure.message
    assert (receiver.requests, MARK in dumped(site)) == ([], False)


def test_senders_cannot_give_an_encrypted_text(site: Site, receiver: Receiver) -> None:
    encrypt(site)
    sent = site.actors.deliver_webhook.message(webhook(receiver.url))
    with pytest.raises(InvalidJob, match="got encrypted as well"):
        site.actors.deliver_webhook.send_with_options(kwargs=sent.kwargs)
    with pytest.raises(InvalidJob):  # nor the object in the place of a value
        site.actors.deliver_webhook.send(
            webhook(receiver.url, secret=sent.kwargs["payload"]["url"])
        )


def test_the_first_key_encrypts_and_an_old_key_still_decrypts(site: Site) -> None:
    encrypt(site, OTHER)
    old = site.actors.update_sheet.message(jobs("")[5][1])
    encrypt(site, KEY, OTHER)
    new = site.actors.update_sheet.message(jobs("")[5][1])
    again = site.actors.update_sheet.message(jobs("")[5][1])
    assert key_id(old.kwargs[ENCRYPTED]) != key_id(new.kwargs[ENCRYPTED])
    for sent in (old, new):
        (job,) = site.actors.update_sheet.jobs_of(sent)
        assert job.payload.auth.refresh_token == f"{MARK}-r"
    # Equal tokens share a batch: their digests are equal.
    batch_key = site.broker.actors["update_sheet"].options["batch_key"]
    assert batch_key(new.kwargs) == batch_key(again.kwargs) != batch_key(old.kwargs)
    encrypt(site, KEY)
    with pytest.raises(InvalidJob, match="expected PAYLOAD_KEYS to have the key"):
        site.actors.update_sheet.jobs_of(old)


def test_a_delivered_webhook_is_sent_again_without_a_key(site: Site, receiver: Receiver) -> None:
    encrypt(site, webhooks={"keep_delivered": timedelta(days=1)})
    sent = site.actors.deliver_webhook.send(webhook(receiver.url))
    site.work_off("webhooks")
    wait_until(lambda: deliveries.endpoint_registry().kept(f"msg_{sent.message_id}"))
    site.use(webhooks={"keep_delivered": timedelta(days=1)})
    assert resend_webhook(sent.message_id, site.broker) == "sent again"
    encrypt(site)
    site.work_off("webhooks")
    first, again = receiver.requests
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert first.headers["x-token"] == again.headers["x-token"] == f"{MARK}-header"


def test_an_operator_edits_what_is_readable_and_the_secrets_stay(site: Site) -> None:
    encrypt(site)
    example = webhook("https://example.com")
    site.actors.deliver_webhook.send_with_options(args=(example,), delay=3_600_000)
    (entry,) = site.broker.inspector.browse("webhooks", "scheduled", limit=9).entries
    original = entry.message.kwargs
    shown = orjson.loads(orjson.dumps(original))
    assert shown["payload"]["url"]["origin"] == "https://example.com"
    shown["payload"]["headers"]["X-Token"] = "new"
    shown["payload"]["body"] = {PLACE: original["payload"]["secret"][PLACE]}
    del shown[ENCRYPTED]
    text = orjson.dumps({"kwargs": shown}).decode()
    message = edited(site.broker, entry, text)
    assert ENCRYPTED in message.kwargs
    (job,) = site.actors.deliver_webhook.jobs_of(message)
    assert (job.payload.url, job.payload.secret) == (example["url"], f"{MARK}-secret")
    assert job.payload.headers == {"X-Token": "new"}
    assert job.payload.body == shown["payload"]["body"]  # a secret goes only where it was
    moved = orjson.loads(text)
    moved["kwargs"]["payload"]["headers"]["X-Token"] = original["payload"]["secret"]
    with pytest.raises(InvalidJob, match=r"payload\.headers"):
        edited(site.broker, entry, orjson.dumps(moved).decode())
    encrypt(site, OTHER)
    with pytest.raises(NotEditable, match="cannot be decrypted here"):
        edited(site.broker, entry, text)
    encrypt(site, enabled=False)
    with pytest.raises(NotEditable, match="set PAYLOAD_ENCRYPTION"):
        edited(site.broker, entry, text)


def test_erase_finds_an_address_in_encrypted_variables(site: Site) -> None:
    encrypt(site)
    email = {**jobs("")[4][1], "data": {"x": "Bob@example.com"}}
    site.actors.send_email.send(email)
    assert "ob@example.com" not in dumped(site)
    erasure = Erasure(site.broker, Subject.of_email("bob@example.com"), settings=site.settings)
    erasure.run()
    assert erasure.places["waiting"].found == 1


def test_a_key_is_rotated_and_then_not_needed_any_more(site: Site) -> None:
    def encrypt_stored(*options: str) -> tuple[int, Any]:
        done = CliRunner().invoke(app, ["encrypt", "--json", *options])
        return done.exit_code, orjson.loads(done.stdout)

    def doctor() -> list[tuple[str, str]]:
        return [(each.state, each.says) for each in check_encryption()]

    send_all(site, "https://example.com", delay=3_600_000)  # in plain text
    assert doctor() == []
    encrypt(site, OTHER)
    send_all(site, "https://example.com", delay=3_600_000)
    assert ("weak", "stored jobs have secrets in plain text: run formrelay encrypt") in doctor()
    encrypt(site, KEY)
    (first,) = doctor()[:1]
    assert first[0] == "bad"
    assert "jobs wait for the missing key" in first[1]
    encrypt(site, KEY, OTHER)
    number = len(jobs(""))
    status, dry = encrypt_stored("--dry-run")
    assert (status, dry["encrypted"]) == (1, 2 * number)
    assert dry["left"] == [f"jobs of another key, or of none: {2 * number}"]
    status, done = encrypt_stored()
    assert (status, done["encrypted"], done["left"]) == (0, 2 * number, [])
    assert done["jobs"] == [{"place": "scheduled", "key": done["first_key"], "jobs": 2 * number}]
    assert MARK not in dumped(site)
    encrypt(site, KEY)
    assert doctor() == [("ok", f"key {done['first_key']} encrypts the secrets of payloads")]
    encrypt(site, KEY, enabled=False)
    assert [state for state, _ in doctor()] == ["weak"]
    report = WorkerReport("host:1", "1", payload_keys=("00000000",))
    site.broker.worker_reports().report(report)
    says = f"these workers cannot decrypt with the first key {done['first_key']}: host:1"
    assert doctor()[0] == ("bad", f"{says}; give them the same PAYLOAD_KEYS")
