"""The page of the audit log."""

from __future__ import annotations

from formrelay.ops.audit import Operator, record
from formrelay.ops.dashboard.access import Role
from tests.ops.dashboard.conftest import HOSTILE, Site


def fill(site: Site, number: int = 3) -> None:
    ann = Operator("ann@host", "cli")
    for count in range(number):
        about = {"filter": "queue webhooks", "count": count}
        record("dlq replay", **about, operator=ann, broker=site.broker)
    bob = Operator("bob", "dashboard")
    record("queues pause", "queue events", outcome="failed: no", operator=bob, broker=site.broker)


def test_entries_have_a_row_each_the_newest_first(site: Site) -> None:
    fill(site)
    text = site.page("/audit")
    assert text.count("<tr data-key=") == 4
    assert text.index(">queues pause<") < text.index(">dlq replay<")
    assert ">failed</span> no</td>" in text


def test_entries_are_searched_by_operator_action_and_time(site: Site) -> None:
    fill(site)
    assert site.page("/audit?who=ANN").count("<tr data-key=") == 3
    assert site.page("/audit?action=queues&window=hour").count("<tr data-key=") == 1
    text = site.page("/audit?who=nobody")
    assert "No entry matches." in text
    assert 'value="nobody"' in text


def test_a_page_is_bounded_and_links_to_more(site: Site) -> None:
    fill(site, 120)
    text = site.page("/audit")
    assert text.count("<tr data-key=") == 100
    assert "limit=200" in text
    assert site.page("/audit?limit=200").count("<tr data-key=") == 121
    assert site.page("/audit?limit=x").count("<tr data-key=") == 100


def test_an_empty_log_says_what_would_be_here(site: Site) -> None:
    assert "Nothing was changed yet." in site.page("/audit")


def test_without_a_shared_store_the_page_says_what_is_missing(site: Site) -> None:
    site.broker.state = None
    assert "Set STATE_URL to a Redis URL" in site.page("/audit")


def test_hostile_texts_are_shown_as_text(site: Site) -> None:
    eve = Operator(HOSTILE, "cli")
    record(HOSTILE, HOSTILE, filter=HOSTILE, outcome=HOSTILE, operator=eve, broker=site.broker)
    text = site.page("/audit?who=&action=&window=" + "%3Cscript%3E")
    assert "<script>alert" not in text
    for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
        assert hidden not in text


def test_readers_see_the_log_too(site: Site) -> None:
    fill(site)
    assert "ann@host" in site.with_tokens(Role.READ_ONLY).get("/audit").text
