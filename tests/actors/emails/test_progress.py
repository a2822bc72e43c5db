"""The progress of e-mails, in every state of their jobs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from formrelay.actors.progress import Progress
from formrelay.brokers import State
from formrelay.ops.progress import progress_json
from formrelay.state import StateRedis, make_suppressions
from formrelay.state.redis.connection import connect_redis
from formrelay.state.suppressions import Suppression, SuppressionReason
from tests.actors.emails.conftest import Mailing, MailServer
from tests.support.waiting import wait_until

ANN, BEN, CAT = "ann@one.example", "ben@two.example", "cat@three.example"
LATER = "451 4.7.1 greylisted"


def entries(mailing: Mailing, state: State) -> list[Any]:
    return mailing.site.broker.inspector.browse("emails", state, limit=10).entries


def test_a_line_tells_the_parts_of_each_state() -> None:
    counts = {"accepted": 3, "refused": 1, "deferred": 1, "waiting": 0}
    assert str(Progress("recipients", counts)) == (
        "3 of 5 recipients accepted, 1 refused, 1 deferred"
    )
    assert str(Progress("rows", {"written": 0, "waiting": 0})) == "0 of 0 rows written"


def test_a_job_that_waits_for_its_first_attempt_has_no_progress(mailing: Mailing) -> None:
    mailing.send()
    (entry,) = entries(mailing, State.WAITING)
    assert progress_json(entry) is None


def test_a_deferred_job_tells_each_recipient_without_an_address(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers = {BEN: [LATER] * 9, CAT: ["550 5.1.1 no such user"]}
    mailing.send(to=[ANN, BEN], bcc=[CAT])
    mailing.work_off()
    (entry,) = entries(mailing, State.DEAD)
    found = progress_json(entry)
    assert found is not None
    assert found["text"] == "1 of 3 recipients accepted, 1 refused, 1 deferred"
    assert (found["what"], found["total"], found["attempts"]) == ("recipients", 3, 4)
    assert found["counts"]["accepted"] == found["counts"]["refused"] == 1
    parts = [(each["position"], each["domain"], each["state"]) for each in found["parts"]]
    assert parts == [
        (1, "one.example", "accepted"),
        (2, "two.example", "deferred"),
        (3, "three.example", "refused"),
    ]
    assert [each["reply"] for each in found["parts"][1:]] == ["451 4.7.1", "550 5.1.1"]
    assert "@" not in json.dumps(found)


def test_a_recipient_is_being_sent_to_while_the_job_is_in_flight(
    mailing: Mailing, server: MailServer
) -> None:
    found: list[Any] = []
    server.on_dot = lambda: found.extend(
        progress_json(each) for each in entries(mailing, State.IN_FLIGHT)
    )
    assert mailing.outcome(to=[ANN, BEN]) == []
    assert [each["text"] for each in found] == ["0 of 2 recipients accepted, 2 sending"]


def test_a_scheduled_job_tells_suppressed_recipients(mailing: Mailing, server: MailServer) -> None:
    mailing.use(retry_delays=(timedelta(0), timedelta(hours=1)))
    make_suppressions(mailing.site.broker.state).add([Suppression(BEN, SuppressionReason.MANUAL)])
    server.answers = {CAT: [LATER]}
    mailing.send(to=[ANN, BEN, CAT])
    mailing.site.start("emails")
    wait_until(lambda: entries(mailing, State.SCHEDULED))
    (entry,) = entries(mailing, State.SCHEDULED)
    found = progress_json(entry)
    assert found is not None
    assert found["text"] == "1 of 3 recipients accepted, 1 deferred, 1 suppressed"


def test_a_scheduled_job_names_the_reply_for_which_it_waits(
    mailing: Mailing, server: MailServer
) -> None:
    mailing.use(retry_delays=(timedelta(0), timedelta(hours=1)))
    server.answers = {ANN: [LATER], BEN: ["550 5.1.1 no such user"]}
    mailing.send(to=[ANN, BEN])
    mailing.site.start("emails")
    wait_until(lambda: entries(mailing, State.SCHEDULED))
    (entry,) = entries(mailing, State.SCHEDULED)
    assert entry.failure is not None
    assert "0 of 2 recipients accepted; last reply: 451 4.7.1" in entry.failure.message


def test_an_autoresponse_to_a_program_is_suppressed(mailing: Mailing, server: MailServer) -> None:
    server.answers = {ANN: ["550 5.7.1 relaying denied"]}
    (letter,) = mailing.outcome(kind="autoresponse", to=[ANN, "no-reply@two.example"])
    found = progress_json(letter)
    assert found is not None
    assert found["text"] == "0 of 2 recipients accepted, 1 refused, 1 suppressed"


def test_a_job_that_does_not_fit_the_schema_has_no_progress(mailing: Mailing) -> None:
    body = b'{"queue_name": "emails", "actor_name": "send_email", "args": [], "message_id": "1",'
    mailing.site.inject("emails", body + b'"kwargs": {}, "options": {}, "message_timestamp": 1}')
    (entry,) = entries(mailing, State.WAITING)
    assert progress_json(entry) is None


def test_a_store_that_failed_is_told(
    mailing: Mailing, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = {ANN: ["550 5.7.1 relaying denied"]}
    (letter,) = mailing.outcome()
    with connect_redis("redis://127.0.0.1:1", timeout=timedelta(seconds=1)) as nobody:
        monkeypatch.setattr(mailing.site.broker, "state", StateRedis(nobody, "127.0.0.1:1"))
        found = progress_json(letter)
    assert found is not None
    assert "not known: the shared store failed: expected Redis at 127.0.0.1:1" in found["text"]


def test_a_missing_store_is_told(
    mailing: Mailing, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = {ANN: ["550 5.7.1 relaying denied"]}
    (letter,) = mailing.outcome()
    monkeypatch.setattr(mailing.site.broker, "state", None)
    assert "set STATE_URL to a Redis URL" in progress_json(letter)["text"]
