"""The page of a job, and what can be done with it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import dramatiq
import pytest
from werkzeug.test import Client

from formrelay.ops.audit import open_log
from formrelay.ops.dashboard.access import Role
from tests.ops.dashboard.conftest import HOSTILE, ORIGIN, Site
from tests.ops.dashboard.helpers import FAILURE

PAYLOAD = {"name": "Ann Other", "age": 42, "auth": {"refresh_token": "1//secret"}, "n": None}


@pytest.fixture
def dead(site: Site) -> Site:
    """A site with a dead letter `d1`."""
    failure = FAILURE | {"causes": ["OSError: the cause"]}
    options = {"failure": failure, "attempt_history": ATTEMPTS, "caused_by": "p1"}
    site.add("webhooks", "dead", "d1", kwargs={"payload": PAYLOAD}, options=options)
    return site


def actions(site: Site) -> list[tuple[str, str]]:
    entries = open_log(site.broker).newest().entries
    return [(entry.action, entry.target) for entry in reversed(entries)]


def test_a_dead_letter_is_shown_with_its_failure_and_a_masked_payload(dead: Site) -> None:
    text = dead.page("/job?queue=webhooks&id=d1")
    for part in ("SinkPermanent", "status 404", "attempt 3", "actors/a.py:1 run", "the cause"):
        assert part in text
    assert "Ann" not in text
    assert "42" not in text[text.index("<pre") :]
    assert "&#34;name&#34;: &#34;••• " in text
    assert actions(dead) == []


def test_revealing_the_payload_is_written_to_the_audit_log_and_hides_tokens(dead: Site) -> None:
    answer = dead.post("/job/reveal", queue="webhooks", id="d1")
    assert answer.status_code == 200
    assert "Ann Other" in answer.text
    assert "1//secret" not in answer.text
    assert 'data-source="/job?queue=webhooks&amp;id=d1"' in answer.text
    assert actions(dead) == [("jobs reveal", "queue webhooks, id d1")]
    (entry,) = open_log(dead.broker).newest().entries
    assert (entry.who, entry.via) == ("local", "dashboard")


def test_read_only_users_see_no_forms_and_cannot_send_them(dead: Site) -> None:
    client = dead.with_tokens(Role.READ_ONLY)
    text = client.get("/job?queue=webhooks&id=d1").text
    assert "status 404" in text
    assert re.findall(r'<form[^>]*action="([^"]+)"', text) == ["/logout"]
    for path in ("/job/reveal", "/job/act", "/job/edit", "/job/replay-edited", "/queue/pause"):
        data = {"queue": "webhooks", "id": "d1", "do": "delete", "name": "webhooks"}
        answer = client.post(path, data=data, headers=ORIGIN)
        assert answer.status_code == 403, path
        assert "Ann" not in answer.text
        assert dead.client.post(path, data=data).status_code == 403  # without an origin
    assert dead.broker.counts("webhooks").dead == 1
    assert actions(dead) == []


def test_a_dead_letter_is_replayed_once(dead: Site) -> None:
    fields = {"queue": "webhooks", "id": "d1", "do": "replay"}
    assert dead.post("/job/act", **fields).location == "/job?queue=webhooks&id=d1"
    assert "Back on its queue" in dead.page("/job?queue=webhooks&id=d1")
    assert (dead.broker.counts("webhooks").waiting, dead.broker.counts("webhooks").dead) == (1, 0)
    dead.post("/job/act", **fields)
    assert "Nothing changed" in dead.page("/job?queue=webhooks&id=d1")
    assert actions(dead) == [("dlq replay", "queue webhooks, id d1")]


def test_a_dead_letter_is_deleted(dead: Site) -> None:
    answer = dead.post("/job/act", queue="webhooks", id="d1", do="delete")
    assert answer.location == "/queue?name=webhooks&state=dead"
    assert dead.broker.counts("webhooks").dead == 0
    assert "done, cancelled or deleted" in dead.page("/job?queue=webhooks&id=d1", 404)


def test_a_scheduled_job_runs_now(site: Site) -> None:
    site.add("webhooks", "scheduled", "s1")
    assert "Run now" in site.page("/job?queue=webhooks&id=s1")
    site.post("/job/act", queue="webhooks", id="s1", do="run-now")
    assert "Due now" in site.page("/job?queue=webhooks&id=s1")
    assert actions(site) == [("jobs run-now", "queue webhooks, id s1")]


def test_a_dead_letter_is_edited_and_replayed(dead: Site) -> None:
    form = dead.post("/job/edit", queue="webhooks", id="d1")
    (text,) = re.findall(r"<textarea[^>]*>\n(.*)</textarea>", form.text, re.DOTALL)
    call = json.loads(text.replace("&#34;", '"'))
    assert call["kwargs"]["payload"]["auth"] == {"refresh_token": "[…]"}
    call["kwargs"]["payload"]["name"] = "Bea"
    answer = dead.post("/job/replay-edited", queue="webhooks", id="d1", call=json.dumps(call))
    (id,) = re.findall(r"id=(.+)", answer.location)
    found = dead.broker.inspector.find(id)
    assert found is not None
    assert found.message.kwargs == {"payload": PAYLOAD | {"name": "Bea"}}
    assert (found.state, found.failure) == ("waiting", None)
    # Another job, of the same cause.
    assert found.message.options == {"caused_by": "p1"}
    assert dead.broker.counts("webhooks").dead == 0
    assert actions(dead) == [
        ("jobs reveal", "queue webhooks, id d1"),
        ("jobs edit", "queue webhooks, id d1"),
    ]


@pytest.mark.parametrize("call", ["{", "[]", '{"args": {}}', '{"kwargs": {}, "more": 1}', "1" * 99])
def test_a_wrong_edit_keeps_the_text_and_the_dead_letter(dead: Site, call: str) -> None:
    answer = dead.post("/job/replay-edited", queue="webhooks", id="d1", call=call)
    assert answer.status_code == 422
    assert "Expected" in answer.text
    assert dead.broker.counts("webhooks").dead == 1


def test_an_edit_of_a_letter_that_is_gone_sends_nothing(dead: Site) -> None:
    dead.broker.delete_dead("webhooks", "d1")
    for path in ("/job/edit", "/job/replay-edited"):
        answer = dead.post(path, queue="webhooks", id="d1", call='{"kwargs": {}}')
        assert answer.status_code == 303
    assert dead.broker.counts("webhooks").waiting == 0


def test_jobs_that_a_job_sends_are_named(site: Site) -> None:
    @dramatiq.actor(broker=site.broker, queue_name="next")
    def follow(payload: Any = None) -> None:
        pass

    target = follow.message({"secret": "value"}).asdict()
    options = {"pipe_target": target, "on_failure": "tell"}
    site.add("webhooks", "waiting", "w1", options=options)
    text = site.page("/job?queue=webhooks&id=w1")
    assert f'href="/job?queue=next&amp;id={target["message_id"]}">follow</a>' in text
    assert "tell" in text
    assert "value" not in text.replace('value="', "")


@pytest.mark.parametrize("state", ["waiting", "scheduled"])
def test_a_job_that_does_not_run_yet_is_cancelled(site: Site, state: str) -> None:
    site.add("webhooks", state, "j1")
    assert "Cancel job" in site.page("/job?queue=webhooks&id=j1")
    answer = site.post("/job/act", queue="webhooks", id="j1", do="cancel", state=state)
    assert answer.location == f"/queue?name=webhooks&state={state}"
    assert "done, cancelled or deleted" in site.page("/job?queue=webhooks&id=j1", 404)
    assert site.broker.counts("webhooks").dead == 0
    assert actions(site) == [("jobs cancel", "queue webhooks, id j1")]


ATTEMPTS = [
    {"attempt": 2, "at": 1_789_999_000.5, "outcome": "retry", "error": "a.Busy", "message": "503"},
    {"attempt": 3, "at": 1_789_999_100, "outcome": "defer", "message": "away", "count": 7},
]


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the rows of a table, as text."""
    (body,) = re.findall(rf'aria-label="{title}">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    rows = re.findall(r"<tr[ >].*?</tr>", body, re.DOTALL)
    cells = [re.findall(r"<t[dh][ >].*?</t[dh]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_the_past_attempts_of_a_job_are_in_a_table_with_the_last_failure(site: Site) -> None:
    took = {**ATTEMPTS[0], "took": 0.25, "next_in": 60, "redelivered": True}
    options = {"failure": FAILURE, "attempt_history": [took, ATTEMPTS[1]]}
    site.add("webhooks", "dead", "d1", options=options)
    text = site.page("/job?queue=webhooks&id=d1")
    rows = table(text, "Table of attempts")
    assert [row[0] for row in rows] == ["2", "3", "3"]
    assert [row[3] for row in rows] == ["retried", "deferred 7 times", "dead-lettered"]
    assert (rows[0][2], rows[0][4]) == ("250 ms", "60 s")
    assert rows[0][5] == "Busy 503 · delivered again: its worker died or lost its connection"
    assert rows[2][5] == "SinkPermanent status 404"
    assert "earlier attempts are in the log" in text


def test_an_attempt_after_a_replay_says_so(site: Site) -> None:
    dead = {**ATTEMPTS[0], "outcome": "dead"}
    history = [dead, {**ATTEMPTS[0], "attempt": 1}, {**ATTEMPTS[0], "at": 1_789_999_200}]
    site.add("webhooks", "scheduled", "s1", options={"attempt_history": history})
    rows = table(site.page("/job?queue=webhooks&id=s1"), "Table of attempts")
    assert [row[5] for row in rows] == ["Busy 503", "Busy after a replay: 503", "Busy 503"]


def test_a_job_without_failed_attempts_has_no_table_of_attempts(site: Site) -> None:
    site.add("webhooks", "waiting", "w1", options={"attempt_history": "odd"})
    assert "Table of attempts" not in site.page("/job?queue=webhooks&id=w1")


def test_hostile_text_in_a_record_of_an_attempt_is_shown_as_text(site: Site) -> None:
    odd = {"attempt": 1, "at": 1e14, "outcome": HOSTILE, "error": HOSTILE, "message": HOSTILE}
    site.add("webhooks", "scheduled", "s1", options={"attempt_history": [odd]})
    text = site.page("/job?queue=webhooks&id=s1")
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;" in text


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slow machine look at everything."""
    monkeypatch.setattr("formrelay.ops.caused_jobs._SECONDS", 60)


def caused(text: str) -> list[list[str]]:
    return table(text, "Table of jobs it caused")


def test_a_job_links_to_its_cause_and_lists_the_jobs_it_caused(site: Site) -> None:
    by_p1 = {"caused_by": "p1"}
    site.add("submissions", "scheduled", "p1", options={"caused_by": "<b>gone"})
    site.add("webhooks", "waiting", "w1", options=by_p1, message_timestamp=1_790_000_000_001)
    site.add("webhooks", "scheduled", "s1", options=by_p1, message_timestamp=1_790_000_000_002)
    failed = {"failure": FAILURE, **by_p1}
    site.add("emails", "dead", "d1", options=failed, message_timestamp=1_790_000_000_003)
    site.add("webhooks", "waiting", "w2", options={"caused_by": "other"})
    parts = [{"options": {}}, {"options": by_p1}, "odd"]
    frozen = {"kwargs": {"batch": parts}, "message_timestamp": 1_790_000_000_004}
    site.add("events", "scheduled", "batch-1", **frozen)
    text = site.page("/job?queue=submissions&id=p1")
    assert [row[:4] for row in caused(text)] == [
        ["w1", "deliver", "webhooks", "waiting"],
        ["s1", "deliver", "webhooks", "scheduled"],
        ["d1", "deliver", "emails", "dead"],
        ["batch-1", "deliver", "events", "scheduled"],
    ]
    assert "status 404" in caused(text)[2][5]
    assert "looked at all 6 jobs of all queues" in text
    assert '<a href="/job?id=%3Cb%3Egone">&lt;b&gt;gone</a>' in text

    child = site.page("/job?queue=webhooks&id=w1")
    assert '<a href="/job?id=p1">p1</a>' in child
    assert "No queue has a job that it caused." in child
    assert site.client.get("/job?id=p1").location == "/job?queue=submissions&id=p1"


def test_a_job_that_is_done_lists_the_jobs_it_caused(site: Site) -> None:
    site.add("webhooks", "dead", "d1", options={"caused_by": "done-1"})
    for path in ("/job?id=done-1", "/job?queue=webhooks&id=done-1"):
        text = site.page(path, 404)
        assert "it is done, cancelled or deleted" in text
        assert [row[0] for row in caused(text)] == ["d1"]


def test_the_search_for_caused_jobs_is_bounded_fair_and_left_out_of_refreshes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.ops.caused_jobs._MOST", 300)
    for number in range(1_000):
        site.add("events", "waiting", f"e{number}")
    for number in range(60):
        options = {"caused_by": "p1"} if number < 55 else {}
        site.add("webhooks", "dead", f"d{number:02}", options=options)
    text = site.page("/job?id=p1", 404)
    assert "looked at 260 jobs of all queues, not at all of them" in text
    assert len({row[0] for row in caused(text)}) == 50
    refresh = site.client.get("/job?id=p1", headers={"X-Formrelay-Refresh": "1"})
    assert (refresh.status_code, 'id="caused"' in refresh.text) == (200, False)


def test_the_edited_job_is_sent_once_by_forms_at_the_same_time(site: Site) -> None:
    site.add("webhooks", "dead", "d1", options={"failure": FAILURE})
    call = json.dumps({"args": [], "kwargs": {"payload": 1}})
    data = {"queue": "webhooks", "id": "d1", "call": call}
    barrier = Barrier(4)

    def send(_number: int) -> int:
        client = Client(site.client.application)
        barrier.wait(60)
        return client.post("/job/replay-edited", data=data, headers=ORIGIN).status_code

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(send, range(4))) == {303}
    counts = site.broker.inspector.counts("webhooks")
    assert (counts.waiting, counts.dead) == (1, 0)
