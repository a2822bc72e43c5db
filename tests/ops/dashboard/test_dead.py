"""The pages of dead letters and of tasks."""

from __future__ import annotations

import json
import re
import time
from html import unescape

import pytest
from werkzeug.test import TestResponse

from formrelay.core.printable import shown_id
from formrelay.ops.dashboard.access import Role
from tests.ops.dashboard.conftest import HOSTILE, Site
from tests.ops.dashboard.helpers import UNAVAILABLE, bury, field, fields, rows
from tests.support.waiting import wait_until


def ended(site: Site, answer: TestResponse) -> str:
    """The page of a task that was started, when it has ended."""
    assert answer.status_code == 303, answer.text
    path = answer.headers["Location"]
    wait_until(lambda: "Ended" in site.page(path))
    return site.page(path)


def dead(site: Site, queue: str = "webhooks") -> int:
    return site.broker.inspector.counts(queue).dead


def value(queue: str, id: str) -> str:
    return json.dumps([queue, id])


# -- finding -------------------------------------------------------------------------------


def test_dead_letters_are_grouped_by_normalised_error(site: Site) -> None:
    for number in range(3):
        bury(site, f"a{number}", f"no answer from https://one.example/{number} within 10 s")
    bury(site, "b1", "the endpoint answered 410")
    text = site.page("/dead")
    first, second = rows(text)
    assert first.startswith(f"{UNAVAILABLE} no answer from <url> within <number> s 3 webhooks")
    assert second.startswith(f"{UNAVAILABLE} the endpoint answered <number> 1 webhooks")
    assert "looked at 4 dead letters" in text
    assert "4 in all queues" in text


def test_a_group_lists_its_letters_with_a_link_to_each_job(site: Site) -> None:
    bury(site, "a1", "no answer")
    bury(site, "b1", "another error")
    text = site.page("/dead")
    link = unescape(re.findall(r'<a href="(/dead/letters[^"]*)"', text)[0])
    text = site.page(link)
    assert len(rows(text)) == 1
    (id,) = re.findall(r'href="/job\?queue=webhooks&amp;id=([^"]*)"', text)
    assert site.page(f"/job?queue=webhooks&id={id}")
    assert "Replay the whole group" in text


def test_only_deaths_of_the_chosen_time_are_looked_at(site: Site) -> None:
    bury(site, "new", "an error of today")
    bury(site, "old", "an error of long ago", ago=3 * 86_400)
    assert "looked at 1 dead letter<" in site.page("/dead")
    assert "looked at 1 dead letter<" in site.page("/dead?window=hour")
    assert "looked at 2 dead letters" in site.page("/dead?window=week")
    assert "looked at 2 dead letters" in site.page("/dead?window=all")


def test_what_a_page_looks_at_is_bounded_and_said(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.ops.dashboard.pages.dead.LOOK_AT", 5)
    bury(site, "old", "an error of before", ago=60)
    for number in range(7):
        bury(site, f"a{number}")
    text = site.page("/dead")
    assert "looked at the newest 5 dead letters; there are more" in text
    assert "an error of before" not in text
    assert "≥ 5" in rows(text)[0]
    further = unescape(re.findall(r'<a href="([^"]*look=further[^"]*)"', text)[0])
    assert "looked at 8 dead letters" in site.page(further)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("queue=other", {"c"}),
        ("actor=fail", {"b"}),
        ("error=InvalidJob", {"b"}),
        ("error=no+answer+after+%3Cnumber%3E+S", {"b"}),
        ("error=after+7", {"b"}),
        ("reason=invalid", {"b"}),
        ("form=f1", {"a"}),
        ("id=a", {"a"}),
        ("id=zz", set()),
        ("queue=webhooks&error=SinkUnavailable", {"a"}),
    ],
)
def test_letters_are_searched(site: Site, query: str, ids: set[str]) -> None:
    bury(site, "a", kwargs={"payload": {"formId": "f1"}})
    invalid = {"error": "formrelay.core.errors.InvalidJob", "reason": "invalid"}
    bury(site, "b", "no answer after 7 s", actor_name="fail", failure=invalid)
    bury(site, "c", queue="other")
    path = "/dead" if "id=" in query else "/dead/letters"
    text = site.page(f"{path}?{query}")
    assert {row.split()[0] for row in rows(text)} == ids


def test_a_list_of_all_queues_has_pages_from_the_newest(site: Site) -> None:
    ids = [f"a{number:03}" for number in range(120)]
    for number, id in enumerate(ids):
        bury(site, id, queue="other" if number % 3 else "webhooks", ago=number + 1)
    found, path = [], "/dead/letters?error=SinkUnavailable"
    while path:
        text = site.page(path)
        found.append([row.split()[0] for row in rows(text)])
        more = re.findall(r'<a href="([^"]*)">Next page', text)
        path = unescape(more[0]) if more else ""
        if len(found) == 1:  # no letter is skipped or repeated when others come and go
            bury(site, "new")
            site.broker.inspector.delete_dead(found[0][-2:] + ids[:2])
    assert [len(page) for page in found] == [50, 50, 20]
    assert [id for page in found for id in page] == ids
    assert "the newest first; looked at 50 dead letters; there are more" in site.page(
        "/dead/letters"
    )
    site.page("/dead/letters?cursor=nonsense", status=404)


def test_letters_that_died_at_the_same_moment_are_on_one_page_each(site: Site) -> None:
    moment = time.time() * 1000 - 1_000.5
    for queue in ("a", "b", "c"):
        for number in range(40):
            bury(site, f"{queue}{number:02}", queue=queue)
        ids = site.broker.client.zrange(site.broker.keys.dead(queue), 0, -1)
        site.broker.client.zadd(site.broker.keys.dead(queue), dict.fromkeys(ids, moment))
    found, path = [], "/dead/letters"
    while path:
        text = site.page(path)
        found += [row.split()[0] for row in rows(text)]
        site.broker.inspector.delete_dead([found[-1]])  # the place of the cursor
        more = re.findall(r'<a href="([^"]*)">Next page', text)
        path = unescape(more[0]) if more else ""
    assert sorted(found) == sorted(set(found))
    assert len(found) == 120


def test_a_search_that_finds_nothing_so_far_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.ops.dashboard.dead_query.LOOK_AT", 5)
    bury(site, "sought", "another error", ago=60)
    for number in range(7):
        bury(site, f"a{number}")
    text = site.page("/dead/letters?error=another")
    assert "No match so far." in text
    assert "looked at 5 dead letters; there are more" in text
    (more,) = re.findall(r'<a href="([^"]*)">Search further', text)
    assert [row.split()[0] for row in rows(site.page(unescape(more)))] == ["sought"]


def test_without_dead_letters_the_page_says_what_would_be_here(site: Site) -> None:
    assert "A job that fails for good" in site.page("/dead")
    bury(site, "old", ago=3 * 86_400)
    assert "choose a longer one" in site.page("/dead")
    assert "No dead letter matches." in site.page("/dead/letters?queue=webhooks")


# -- replaying and deleting ----------------------------------------------------------------


def test_a_replay_may_be_slowed_down_and_stopped(site: Site) -> None:
    for number in range(30):
        bury(site, f"a{number}")
    asked = fields(site.post("/dead/confirm", action="replay", window="day").text)
    started = site.post("/dead/start", action="replay", rate="2", **asked)
    path = started.headers["Location"]
    wait_until(lambda: site.broker.inspector.counts("webhooks").waiting)
    assert "running" in site.page(path)
    site.post("/task/stop", id=path.partition("id=")[2])
    assert "stops after its current step" in site.page(path)
    page = ended(site, started)
    assert "by local" in page
    assert "start it again to go on" in page
    counts = site.broker.inspector.counts("webhooks")
    assert counts.waiting + counts.dead == 30
    assert counts.dead > 0


def test_a_group_is_replayed_after_a_question_that_names_filter_and_count(site: Site) -> None:
    for number in range(3):
        bury(site, f"a{number}", f"no answer within {number} s")
    bury(site, "b", "another error")
    group = field(site.page("/dead"), "group")
    answer = site.post("/dead/confirm", action="replay", group=group, window="day")
    assert answer.status_code == 200
    assert "Replay 3 dead letters?" in answer.text
    assert f"group {group}" in answer.text
    assert "no answer within &lt;number&gt; s" in answer.text
    assert "may repeat an effect" in answer.text
    bury(site, "later", "no answer within 9 s", ago=-5)  # dies after the question
    page = ended(site, site.post("/dead/start", action="replay", **fields(answer.text)))
    assert "3 of 3" in page
    assert "3 replayed" in page
    assert site.broker.inspector.counts("webhooks").waiting == 3
    assert dead(site) == 2
    entry = site.page("/audit")
    assert "dlq replay" in entry
    assert f"group {group}" in entry


def test_selected_letters_are_deleted_and_no_other(site: Site) -> None:
    for id in "abcd":
        bury(site, id)
    bury(site, "a", queue="other")
    answer = site.client.post(
        "/dead/confirm",
        data={
            "action": "delete",
            "selected": "1",
            "letter": [value("webhooks", "b"), value("webhooks", "d"), value("other", "a")],
        },
        headers={"Origin": "http://localhost"},
    )
    assert "Delete 3 dead letters?" in answer.text
    assert "queue webhooks: b, d; queue other: a" in answer.text
    assert "cannot be restored" in answer.text
    assert dead(site) == 4
    letters = [unescape(each) for each in re.findall(r'name="letter" value="([^"]*)"', answer.text)]
    started = site.client.post(
        "/dead/start",
        data={"action": "delete", "letter": letters, "expected": "3"},
        headers={"Origin": "http://localhost"},
    )
    assert "3 deleted" in ended(site, started)
    assert dead(site) == 2
    assert dead(site, "other") == 0


def test_selecting_nothing_changes_nothing(site: Site) -> None:
    bury(site, "a")
    answer = site.post("/dead/confirm", action="delete", selected="1", window="day")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/dead/letters")
    assert "Select dead letters first." in site.page("/dead")


def test_a_task_cannot_be_started_without_the_question(site: Site) -> None:
    bury(site, "a")
    assert site.post("/dead/start", action="delete").status_code == 400
    assert site.post("/dead/start", action="purge", until="1").status_code == 400
    assert dead(site) == 1


def test_a_count_that_is_not_exact_says_at_least(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.ops.dashboard.dead_query.COUNT_AT_MOST", 2)
    for id in "abc":
        bury(site, id, actor_name="fail")
    answer = site.post("/dead/confirm", action="replay", actor="fail", window="all")
    assert "Replay at least 2 dead letters?" in answer.text
    assert "2 of" not in answer.text
    page = ended(site, site.post("/dead/start", action="replay", **fields(answer.text)))
    assert "3 replayed" in page


def test_letters_that_are_gone_meanwhile_are_counted(site: Site) -> None:
    bury(site, "a")
    bury(site, "b")
    answer = site.post("/dead/confirm", action="replay", window="day")
    site.broker.inspector.delete_dead(["a"], queue="webhooks")
    page = ended(site, site.post("/dead/start", action="replay", **fields(answer.text)))
    assert "1 of 2" in page
    assert "1 of the selected letters were gone" in page


def test_a_reader_sees_everything_and_changes_nothing(site: Site) -> None:
    bury(site, "a")
    reader = site.with_tokens(Role.READ_ONLY)
    for path in ("/dead", "/dead/letters", "/dead?id=a", "/tasks"):
        text = reader.get(path).text
        assert "<button name=" not in text
        assert 'type="checkbox"' not in text
    for path in ("/dead/confirm", "/dead/start", "/task/stop"):
        answer = reader.post(
            path, data={"action": "replay"}, headers={"Origin": "http://localhost"}
        )
        assert answer.status_code == 403
    assert site.client.post("/dead/start", data={"action": "replay"}).status_code == 403
    assert dead(site) == 1


def test_a_task_that_is_over_or_unknown_cannot_be_stopped(site: Site) -> None:
    bury(site, "a")
    answer = site.post("/dead/confirm", action="replay", window="day")
    started = site.post("/dead/start", action="replay", **fields(answer.text))
    ended(site, started)
    id = started.headers["Location"].partition("id=")[2]
    assert site.post("/task/stop", id=id).status_code == 303
    assert "The task is over already." in site.page(f"/task?id={id}")
    assert "dlq replay" in site.page("/tasks")
    site.page("/task?id=unknown", status=404)


def test_hostile_texts_are_shown_as_text_and_can_be_acted_on(site: Site) -> None:
    id = HOSTILE
    failure = {"error": HOSTILE, "worker": HOSTILE}
    bury(site, id, HOSTILE, queue="evil-queue", actor_name=HOSTILE, failure=failure)
    group = field(site.page("/dead"), "group")
    asked = site.post("/dead/confirm", action="replay", group=group, window="all")
    one = value("evil-queue", shown_id(id))
    chosen = site.post("/dead/confirm", action="delete", letter=one)
    pages = [
        site.page("/dead"),
        site.page("/dead/letters"),
        site.page(f"/dead/letters?group={group}"),
        site.client.get("/dead", query_string={"id": "<script", "actor": HOSTILE}).text,
        asked.text,
        chosen.text,
    ]
    pages.append(ended(site, site.post("/dead/start", action="delete", letter=one)))
    assert "1 deleted" in pages[-1]
    pages += [site.page("/tasks"), site.page("/audit")]
    for text in pages:
        assert "<script>alert" not in text
        for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
            assert hidden not in text


@pytest.mark.parametrize("query", ["since=x", "until=1e99", "reason=none", "since=nan"])
def test_a_wrong_filter_is_refused(site: Site, query: str) -> None:
    site.page(f"/dead/letters?{query}", status=400)
