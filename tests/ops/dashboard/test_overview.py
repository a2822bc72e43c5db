"""The overview."""

from __future__ import annotations

import re

from werkzeug.test import Client

from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.ops.dashboard.access import LoopbackAccess
from formrelay.state import make_worker_reports
from formrelay.state.worker_reports import RunningJob, WorkerReport
from tests.ops.dashboard.conftest import HOSTILE, Site
from tests.ops.dashboard.helpers import add_history, add_worker, row


def test_a_queue_has_a_row_with_its_counts_and_what_happened(site: Site) -> None:
    for number in range(3):
        site.add("webhooks", "waiting", f"w{number}")
    site.add("webhooks", "scheduled", "s1")
    site.add("other", "dead", "d1")
    add_history(site, "webhooks", 95, 5)
    text = site.page("/")
    found = row(text, "webhooks")
    counts = [found[name] for name in ("Waiting", "Scheduled", "In flight", "Dead")]
    assert counts == ["3", "1", "0", "0"]
    assert found["Errors"] == "5.0 %"
    assert found["p50"].endswith(" ms")
    assert 200 < int(found["p50"].split()[0]) < 300
    assert float(found["Jobs/s"]) > 0
    assert found["Last hour"] == "last hour: 100 attempts, 5 failed"
    assert '<path class="bad" d="M' in text
    other = row(text, "other")
    assert [other[name] for name in ("Dead", "Jobs/s", "Errors", "p95")] == ["1", "0", "–", "–"]
    assert other["Last day"] == "last day: no jobs"


def test_queues_without_a_worker_and_paused_queues_are_marked(site: Site) -> None:
    site.add("webhooks", "waiting", "w1")
    site.add("other", "waiting", "w2")
    add_worker(site, "w1", "other")
    add_worker(site, "w2", "webhooks", silent_for=3_600)
    site.broker.inspector.pause("other")
    text = site.page("/")
    assert "no worker" in row(text, "webhooks")["Queue"]
    assert "no worker" not in row(text, "other")["Queue"]
    assert "paused" in row(text, "other")["Queue"]
    assert re.search(r"No worker consumes <a [^>]+>webhooks</a>: jobs wait there", text)
    assert re.search(r"w1:1.*alive.*w2:1.*silent", text, re.DOTALL)


def test_empty_states_say_what_would_be_here(site: Site) -> None:
    text = site.page("/")
    assert "A worker appears here within seconds of its start" in text
    assert "no endpoint fails" in text
    site.broker.queues.clear()
    site.client = Client(site.app(LoopbackAccess()))  # without the list of before
    assert "A queue appears here with its first job" in site.page("/")


def test_failing_endpoints_are_counted(site: Site) -> None:
    registry = make_registry(site.broker.state)
    now = site.broker.clock.time()
    registry.disable("e1", why="gone", now=now)
    report = DeliveryReport("e2", "example.com", False, 3, now, now, 503, open_until=now + 60)
    registry.report([report], DisableRules())
    assert "1 disabled, 1 with an open breaker" in site.page("/")


def test_without_a_shared_store_the_page_says_what_is_missing(site: Site) -> None:
    site.broker.state = None
    text = site.page("/")
    assert "Rates and durations need a shared store" in text
    assert "p95" not in text
    assert "each worker keeps this in its memory" in text


def test_all_queues_are_counted_in_few_round_trips(site: Site) -> None:
    for number in range(50):
        site.add(f"q{number}", "waiting", "w")
    site.page("/")  # finds the queues, loads the script
    client = site.broker.client
    before = client.info("commandstats")
    site.page("/")
    after = client.info("commandstats")

    def calls(name: str) -> int:
        key = f"cmdstat_{name}"
        return after.get(key, {"calls": 0})["calls"] - before.get(key, {"calls": 0})["calls"]

    assert calls("evalsha") == 52  # one for each queue, the endpoints, the reports of workers
    assert calls("scan") == 1  # only asks whether it may list
    assert calls("keys") == 0
    assert calls("script|exists") == 1


def test_hostile_names_of_workers_and_queues_are_shown_as_text(site: Site) -> None:
    site.broker.queues.add(HOSTILE)
    add_worker(site, HOSTILE, HOSTILE)
    text = site.page("/")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    for hidden in "\x1b\u202e\u2066\u200f\u2028\x85\x00\x07\u200b":
        assert hidden not in text


def test_workers_say_what_they_run(site: Site) -> None:
    running = (RunningJob("deliver", 12.0), RunningJob("record", 3.0, 500))
    report = WorkerReport(
        "w1:1",
        "1.2.3",
        ("webhooks",),
        3_700.0,
        123_456_789,
        5,
        (*running, running[0], running[0]),
    )
    add_worker(site, "w1", "webhooks")
    make_worker_reports(site.broker.state).report(report)
    text = re.sub(r"<[^>]+>", " ", site.page("/"))
    words = " ".join(text.split())
    says = r"w1:1 alive \d+s ago 1h 123 MB 1\.2\.3 deliver 12s ?, record ×500 3s ?, deliver 12s"
    assert re.search(says + " and 2 more webhooks", words)
