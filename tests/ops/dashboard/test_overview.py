"""The overview."""

from __future__ import annotations

from tests.ops.dashboard.conftest import HOSTILE, Site


def test_queues_have_a_row_each_with_their_counts(site: Site) -> None:
    for number in range(3):
        site.add("webhooks", "waiting", f"w{number}")
    site.add("webhooks", "scheduled", "s1")
    site.add("other", "dead", "d1")
    text = site.page("/")
    assert text.count("<tr data-key=") == 2
    assert "other" in text


def test_hostile_queue_names_are_shown_as_text(site: Site) -> None:
    site.add(HOSTILE.replace("\n", ""), "waiting", "w1")
    text = site.page("/")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
        assert hidden not in text
