"""The page of a queue: tabs, pages, search."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.ops.dashboard.conftest import HOSTILE, Site
from tests.ops.dashboard.helpers import FAILURE


def rows(text: str) -> list[str]:
    return re.findall(r'<tr data-key="([^"]*)">', text)


def test_a_tab_for_each_state_lists_its_jobs(site: Site) -> None:
    site.add("webhooks", "waiting", "w1")
    site.add("webhooks", "scheduled", "s1", options={"failure": FAILURE})
    site.add("webhooks", "dead", "d1", options={"failure": FAILURE})
    assert rows(site.page("/queue?name=webhooks")) == ["w1"]
    scheduled = site.page("/queue?name=webhooks&state=scheduled")
    assert rows(scheduled) == ["s1"]
    assert re.search(r"in \d+d", scheduled)
    dead = site.page("/queue?name=webhooks&state=dead")
    assert rows(dead) == ["d1"]
    assert "status 404" in dead
    empty = site.page("/queue?name=webhooks&state=in_flight")
    assert "Nothing is in flight." in empty


def test_dead_letters_have_pages_from_the_newest_and_from_the_oldest(site: Site) -> None:
    for number in range(62):
        site.add("webhooks", "dead", f"d{number:02}")
    newest = [f"d{number:02}" for number in range(61, -1, -1)]
    for order, expected in (("", newest), ("&order=oldest", newest[::-1])):
        first = site.page(f"/queue?name=webhooks&state=dead{order}")
        assert rows(first) == expected[:50]
        assert f"{'oldest' if order else 'newest'} first" in first
        (more,) = re.findall(r'href="([^"]+)">Next page', first)
        second = site.page(more.replace("&amp;", "&"))
        assert rows(second) == expected[50:]
        assert "First page" in second
        assert "Next page" not in second


def test_a_search_among_dead_letters_begins_with_the_newest(site: Site) -> None:
    for number in range(120):
        site.add("webhooks", "dead", f"d{number:03}", actor_name="a" if number % 2 else "b")
    text = site.page("/queue?name=webhooks&state=dead&actor=a")
    assert rows(text) == [f"d{number:03}" for number in range(119, 19, -2)]
    assert "50 found among 99 looked at" in text
    (more,) = re.findall(r'href="([^"]+)">Search further', text)
    assert rows(site.page(more.replace("&amp;", "&"))) == [f"d{n:03}" for n in range(19, 0, -2)]


def test_a_search_is_bounded_says_so_and_goes_on(site: Site) -> None:
    pipeline = site.broker.client.pipeline()
    keys, client = site.broker.keys, site.broker.client
    site.add("webhooks", "waiting", "x")
    body = client.hget(keys.bodies("webhooks"), "x")
    for number in range(4_000):
        pipeline.hset(keys.bodies("webhooks"), f"id{number:04}", body)
        pipeline.rpush(keys.waiting("webhooks"), f"id{number:04}")
    pipeline.execute()
    url, found, looked, searched = "/queue?name=webhooks&id=id39", [], 0, 0
    while url:
        text = site.page(url)
        searched += 1
        found += rows(text)
        looked += int(re.findall(r"among ([\d,]+) looked at", text)[0].replace(",", ""))
        more = re.findall(r'href="([^"]+)">Search further', text)
        url = more[0].replace("&amp;", "&") if more else ""
    assert found == [f"id39{number:02}" for number in range(100)]
    assert looked == 4_001
    assert searched >= 3


def test_jobs_are_found_by_actor_form_and_error(site: Site) -> None:
    site.add("webhooks", "dead", "d1", options={"failure": FAILURE})
    site.add("webhooks", "dead", "d2", kwargs={"payload": {"body": {"formId": "form-1"}}})
    site.add("webhooks", "dead", "d3", actor_name="other")
    for query, expected in (
        ("error=sinkpermanent", ["d1"]),
        ("error=404", ["d1"]),
        ("error=%3Cnumber%3E", ["d1"]),
        ("form=form-1", ["d2"]),
        ("actor=OTH", ["d3"]),
        ("actor=OTH&form=form-1", []),
    ):
        assert rows(site.page(f"/queue?name=webhooks&state=dead&{query}")) == expected, query


def test_a_whole_id_leads_to_its_job(site: Site) -> None:
    site.add("other", "dead", "d1")
    assert site.client.get("/queue?name=other&id=d1").location == "/job?queue=other&id=d1"
    assert site.client.get("/find?id=d1").location == "/job?queue=other&id=d1"
    assert site.client.get("/find?id=nope").location == "/job?id=nope"
    assert "Found no job whose id begins with nope." in site.page("/job?id=nope", 404)
    assert site.client.get("/find?id=+").location == "/"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slow machine look at everything."""
    monkeypatch.setattr("formrelay.ops.dashboard.search._MAX_FIND_SECONDS", 60)


def found(text: str) -> list[str]:
    return re.findall(r'<th scope="row"[^>]*><a [^>]*>([^<]*)</a>', text)


def test_the_begin_of_an_id_leads_to_its_job_or_to_a_list(site: Site) -> None:
    site.add("other", "dead", "ab-1")
    site.add("webhooks", "scheduled", "ab-2")
    site.add("webhooks", "waiting", "ac")
    site.add("emails", "waiting", "a*")
    for begin, place in (
        ("ac", "/job?queue=webhooks&id=ac"),
        ("ab-2", "/job?queue=webhooks&id=ab-2"),
        ("ab-1", "/job?queue=other&id=ab-1"),
        ("a*", "/job?queue=emails&id=a*"),
    ):
        assert site.client.get("/find", query_string={"id": begin}).location == place
    text = site.page("/find?id=ab")
    assert sorted(found(text)) == ["ab-1", "ab-2"]
    assert "looked at all 4 ids of all queues" in text
    assert 'href="/job?queue=webhooks&amp;id=ab-2"' in text
    hostile = site.client.get("/find", query_string={"id": HOSTILE}, follow_redirects=True)
    assert "<script>alert" not in hostile.text


def test_the_search_for_the_begin_of_an_id_is_bounded_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        site.add("other", "dead", f"same-{number:02}")
    text = site.page("/find?id=same")
    assert len(found(text)) == 20
    assert "The first 20 found" in text
    monkeypatch.setattr("formrelay.ops.dashboard.search._MAX_IDS", 1_000)
    keys, client = site.broker.keys, site.broker.client
    ids = ["x-last", *(f"w{number}" for number in range(5_000))]
    client.hset(keys.bodies("webhooks"), mapping=dict.fromkeys(ids, b"{}"))
    client.rpush(keys.waiting("webhooks"), *ids)
    answer = site.client.get("/find?id=nothing", follow_redirects=True)
    assert "Looked at 1,030 ids; there are more." in answer.text
    # A whole id is found in a queue of any length.
    assert site.client.get("/find?id=x-last").location == "/job?queue=webhooks&id=x-last"
    assert len(found(site.page("/find?id=same-1"))) == 10


def test_pausing_and_resuming(site: Site) -> None:
    answer = site.post("/queue/pause", name="webhooks", do="pause")
    assert (answer.status_code, answer.location) == (303, "/queue?name=webhooks")
    assert "Paused: workers finish" in site.page("/queue?name=webhooks")
    assert site.broker.inspector.is_paused("webhooks")
    site.post("/queue/pause", name="webhooks", do="resume")
    assert not site.broker.inspector.is_paused("webhooks")


def test_what_does_not_exist_is_not_found(site: Site) -> None:
    assert "There is no queue" in site.page("/queue?name=nope", 404)
    assert "does not exist" in site.page("/queue?name=webhooks&cursor=nonsense", 404)
    assert "Expected a state" in site.page("/queue?name=webhooks&state=lost", 400)
    assert "expected the field" in site.page("/queue", 400)
    site.page("/queue?name=%00%ff", 404)


def test_hostile_text_is_shown_as_text_in_every_field(site: Site) -> None:
    failure = FAILURE | dict.fromkeys(("error", "message", "worker", "at"), HOSTILE)
    fields = {"actor_name": HOSTILE, "options": {"failure": failure | {"where": [HOSTILE]}}}
    for state in ("waiting", "scheduled", "dead"):
        id = HOSTILE.encode() + state.encode() + b"\xff"
        site.add("webhooks", state, id, **fields)
        text = site.page(f"/queue?name=webhooks&state={state}&id=%3Cscript&error=%3Cscript")
        assert "<script>alert" not in text
        assert text.count("&lt;script&gt;alert(1)") >= 4
        for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
            assert hidden not in text
        (link,) = set(map(unescape, re.findall(r'href="(/job[^"]+)"', text)))
        job = site.page(link)
        assert "<script>alert" not in job
        assert job.count("&lt;script&gt;alert(1)") > 4
