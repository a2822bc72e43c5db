"""The overview."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from werkzeug.test import Client

from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.ops.dashboard.access import LoopbackAccess
from formrelay.state import make_history, make_worker_reports
from formrelay.state.history import Tally
from formrelay.state.worker_reports import PausedSink, RunningJob, WorkerReport
from tests.ops.dashboard.conftest import HOSTILE, Site
from tests.ops.dashboard.helpers import add_history, add_worker, row
from tests.state.stores import state_of


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
    assert "<code>formrelay worker webhooks</code>" in text
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


def test_while_the_shared_store_is_unavailable_the_page_shows_what_the_broker_knows(
    site: Site,
) -> None:
    site.add("webhooks", "dead", "d1")
    site.broker.state = state_of("redis://127.0.0.1:1/0")
    text = site.page("/")
    assert row(text, "webhooks")["Dead"] == "1"
    assert "The shared store is unavailable: expected Redis at 127.0.0.1:1" in text
    assert "or STATE_URL for the shared store" in text
    assert "need a shared store" not in text
    assert "d1" in site.page("/dead?window=all&id=d1")
    assert "1 dead letter" in site.page("/dead?window=all")
    text = site.page("/audit", status=503)
    assert "The broker or the shared store is unavailable" in text


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
        rate=2.5,
        error_rate=0.1,
    )
    add_worker(site, "w1", "webhooks")
    make_worker_reports(site.broker.state).report(report)
    text = re.sub(r"<[^>]+>", " ", site.page("/"))
    words = " ".join(text.split())
    says = r"w1:1 alive \d+s ago 1h 2\.5 10\.0 % 123 MB 1\.2\.3 deliver 12s ?, record ×500 3s ?, "
    assert re.search(says + "deliver 12s and 2 more webhooks", words)


def test_workers_that_do_not_work_are_told_apart(site: Site) -> None:
    store: Any = make_worker_reports(site.broker.state)
    store.report(WorkerReport("a:1", "1", stalled=30))
    store.report(WorkerReport("b:1", "1", problem="no answer"))
    ended = WorkerReport("c:1", "1")
    store.report(ended)
    store.mark_ended(ended)
    site.broker.client.zincrby(
        f"{site.broker.state.namespace}:__reports__.times", -25_000, ended.id
    )
    words = " ".join(re.sub(r"<[^>]+>", " ", site.page("/")).split())
    assert re.search(r"a:1 hangs .* b:1 no broker .* c:1 died", words)
    assert "b:1 cannot use the broker: no answer" in words
    assert "a:1 hangs: a consumer has not looked for jobs for 30s" in words


# -- sinks ---------------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with the URLs of two sinks."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("API_URL", "https://api.example")
    monkeypatch.setenv("SMTP_URL", "smtp://user:hidden@mail.example")
    monkeypatch.setattr("formrelay.config.settings._current", None)


def sinks(site: Site) -> dict[str, str]:
    """State and details of the external systems, by name."""
    site.client = Client(site.app(LoopbackAccess()))  # without the figures of before
    _, _, text = site.page("/").partition('id="external"')
    found = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", text, re.DOTALL)
    plain = [[" ".join(re.sub("<[^>]*>", " ", each).split()) for each in pair] for pair in found]
    return dict(plain)


def happened(site: Site, ago: timedelta, **tallies: Tally) -> None:
    """Add to the history of queues."""
    source = f"{ago}{sorted(tallies)}"
    make_history(site.broker.state).add(tallies, age=ago, source=source, number=1)


@pytest.mark.usefixtures("settings")
def test_nothing_is_said_of_sinks_of_which_nothing_is_known(site: Site) -> None:
    found = sinks(site)
    assert found["ClickHouse"] == "not set set CLICKHOUSE_URL for its jobs"
    assert found["API"] == (
        "configured https://api.example; no attempt on submissions and partials in the last day"
    )
    site.broker.state = None
    assert "set STATE_URL to a Redis URL to see it here" in sinks(site)["API"]


@pytest.mark.usefixtures("settings")
def test_sinks_have_their_last_success_and_failure(site: Site) -> None:
    hour = timedelta(hours=1)
    happened(site, 5 * hour, submissions=Tally(dead=1), emails=Tally(done=1))
    happened(site, timedelta(minutes=5), partials=Tally(done=1), emails=Tally(retried=1))
    api, smtp = (sinks(site)[name] for name in ("API", "SMTP"))
    assert re.search(r"^working .*: last success [56]m ago, last failure [45]h ago$", api)
    assert re.search(r"^failing .*: last success [45]h ago, last failure [56]m ago$", smtp)
    assert "hidden" not in smtp


@pytest.mark.usefixtures("settings")
def test_sinks_for_which_workers_pause_are_unavailable(site: Site) -> None:
    happened(site, timedelta(minutes=5), partials=Tally(done=1))
    store = make_worker_reports(site.broker.state)
    for number, paused in enumerate(
        [
            (PausedSink("api", 20.0), PausedSink("smtp", 8.0, is_failing=False)),
            (PausedSink("api", 10.0),),
            (),
        ]
    ):
        add_worker(site, f"w{number}", "partials")
        queues = ("partials", "emails")
        store.report(WorkerReport(f"w{number}:1", "1.2.3", queues, paused=paused))
    found = sinks(site)
    assert found["API"].startswith(
        "unavailable https://api.example; paused in 2 of 3 workers, next try within 10s; on "
    )
    assert found["SMTP"].startswith("at a limit smtp://")
    assert "paused in 1 of 3 workers, next try within 8s" in found["SMTP"]
