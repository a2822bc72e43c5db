"""The page of metrics: valid for Prometheus, with the right numbers, and named by its rules."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from formrelay.brokers import QueueCounts
from formrelay.core.durations import BIN_COUNT
from formrelay.middleware.outcome_counts import BATCH_ENDS
from formrelay.ops.metrics import names
from formrelay.ops.metrics.exposition import render
from formrelay.ops.metrics.files import Machine
from formrelay.ops.metrics.queues import QueueFigures
from tests.ops.metrics.processes import jobs, snapshot
from tests.support.checkout import ROOT

#: Suffixes of Prometheus' naming rules: base units, and _info.
UNITS = ("_seconds", "_bytes", "_jobs", "_info")
#: Metrics without a unit: numbers of things that the name itself says, and flags.
UNITLESS = {"sink_paused", "webhook_breakers_open", "broker_up", "workers"}

COUNTS = {
    "jobs": {("q", "a"): jobs(3, 1, 0.5), ("q", "b"): jobs()},
    "retries": {("q", "app.Error"): [1]},
    "deferrals": {("q", "busy"): [2]},
    "dead_letters": {("q", "app.Error"): [4]},
    "batches": {("q", "a"): [12, 0, 1, 0, 1, *[0] * (len(BATCH_ENDS) - 3)]},
    "lateness": {("q",): [0.25, *[0] * (BIN_COUNT - 1), 1]},
    "requests": {("api", "ok"): [2.5, 1, 1, *[0] * (BIN_COUNT - 2)]},
    "dropped_lines": {(): [5]},
}
QUEUES = QueueFigures(
    True,
    (
        QueueCounts("q", 5, 7, 2, 1, oldest_age=timedelta(seconds=9)),
        QueueCounts("empty", 0, 0, 0, 0),
    ),
    {"q": (1, 3), "empty": (0, 0)},
)


def machine(**values: Any) -> Machine:
    live = (
        snapshot("1-aa", paused={"api": False}, memory_bytes=10, breakers_open=1),
        snapshot("2-bb", paused={"api": True}, memory_bytes=30, monotonic=time.monotonic() - 7),
    )
    known: dict[str, Any] = {"live": live, "counts": COUNTS, "starts": 6, "crashes": 1}
    return Machine(**known | {"recycles": 3} | values)


def samples(text: str) -> dict[str, float]:
    """Values by sample, with its labels in alphabetical order."""
    found = {}
    for family in prometheus(text):
        for each in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(each.labels.items()))
            found[f"{each.name.removeprefix('formrelay_')}{{{labels}}}"] = each.value
    return found


def page(found: Machine | None = None, queues: QueueFigures = QUEUES) -> dict[str, float]:
    return samples(render(found or machine(), queues)[0].decode())


def test_each_number_is_in_its_place() -> None:
    found = page()
    expected = {
        "jobs_total{actor=a,outcome=done,queue=q}": 3,
        "jobs_total{actor=a,outcome=retry,queue=q}": 1,
        "jobs_total{actor=b,outcome=dead,queue=q}": 0,
        "job_duration_seconds_sum{actor=a,queue=q}": 0.5,
        "job_duration_seconds_count{actor=a,queue=q}": 4,
        "job_duration_seconds_bucket{actor=a,le=0.001,queue=q}": 4,
        "job_duration_seconds_bucket{actor=b,le=+Inf,queue=q}": 0,
        "retries_total{error_type=app.Error,queue=q}": 1,
        "deferrals_total{queue=q,reason=busy}": 2,
        "dead_letters_total{error_type=app.Error,queue=q}": 4,
        "batch_jobs_sum{actor=a,queue=q}": 12,
        "batch_jobs_bucket{actor=a,le=1,queue=q}": 0,
        "batch_jobs_bucket{actor=a,le=2,queue=q}": 1,
        "batch_jobs_bucket{actor=a,le=10,queue=q}": 2,
        "schedule_lateness_seconds_bucket{le=3402.82,queue=q}": 0,
        "schedule_lateness_seconds_count{queue=q}": 1,
        "sink_request_duration_seconds_bucket{le=0.001,result=ok,sink=api}": 1,
        "sink_request_duration_seconds_bucket{le=0.00256,result=ok,sink=api}": 2,
        "sink_request_duration_seconds_sum{result=ok,sink=api}": 2.5,
        "sink_paused{sink=api}": 1,
        "webhook_breakers_open{}": 1,
        "queue_jobs{queue=q,state=waiting}": 5,
        "queue_jobs{queue=q,state=scheduled}": 7,
        "queue_jobs{queue=q,state=in_flight}": 2,
        "queue_jobs{queue=q,state=dead}": 1,
        "queue_oldest_seconds{queue=q}": 9,
        "queue_oldest_seconds{queue=empty}": 0,
        "queue_due_jobs{queue=q}": 1,
        "queue_backlog_jobs{queue=q}": 8,
        "broker_up{}": 1,
        "workers{}": 2,
        "worker_starts_total{}": 6,
        "worker_crashes_total{}": 1,
        "worker_recycles_total{}": 3,
        "worker_memory_bytes{}": 40,
        "worker_memory_max_bytes{}": 30,
        "log_lines_dropped_total{}": 5,
        "build_info{broker=redis,python=3.11.2,version=1.2.3}": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert 7 <= found["worker_snapshot_age_seconds{}"] < 60


def test_what_a_broker_does_not_tell_is_missing_not_zero() -> None:
    rabbitmq = QueueFigures(True, (QueueCounts("q", 5, None, None, 1),), None, 40)
    found = {name: value for name, value in page(queues=rabbitmq).items() if "queue_" in name}
    assert found == {
        "queue_jobs{queue=q,state=waiting}": 5,
        "queue_jobs{queue=q,state=dead}": 1,
        "queue_backlog_jobs{queue=q}": 5,
    }
    assert page(queues=rabbitmq)["scheduled_jobs{}"] == 40
    unknown = page(queues=QueueFigures())
    assert not [name for name in unknown if name.startswith(("queue", "broker"))]
    assert page(queues=QueueFigures(False))["broker_up{}"] == 0


def test_a_machine_without_workers_has_a_page_too() -> None:
    found = page(Machine((), {}, 0, 0, 0))
    assert found["workers{}"] == found["worker_memory_max_bytes{}"] == 0
    assert found["queue_backlog_jobs{queue=q}"] == 8


def test_error_types_of_many_processes_are_limited() -> None:
    rows = {("q", f"app.E{number}"): [1.0] for number in range(300)}
    rows["q", "app.Often"] = [500.0]
    found = page(machine(counts={"retries": rows}))
    retries = {name: value for name, value in found.items() if name.startswith("retries_total")}
    assert len(retries) == 201
    assert retries["retries_total{error_type=app.Often,queue=q}"] == 500
    assert retries["retries_total{error_type=other,queue=q}"] == 101


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_page_is_valid_and_complete(accept: str) -> None:
    body, content_type = render(machine(), QUEUES, accept)
    parse = open_metrics if accept else prometheus
    families = {family.name: family for family in parse(body.decode())}
    assert content_type.startswith(accept.partition(";")[0] or "text/plain")
    for metric in names.ALL:
        name = metric.full_name.removesuffix("_total")
        family = families.pop(name)
        assert family.type == metric.kind, name
        assert family.documentation == metric.help
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        assert labels <= set(metric.labels), name
    assert families == {}


@pytest.mark.parametrize("metric", names.ALL, ids=lambda metric: metric.name)
def test_names_keep_the_rules_of_prometheus(metric: names.Metric) -> None:
    """The rules that `promtool check metrics` checks, and Prometheus' naming rules."""
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not metric.name.endswith(("_count", "_sum", "_bucket"))
    assert metric.kind not in metric.name
    assert metric.help.endswith(".")
    assert len(metric.help) > 20
    is_count = metric.kind == "counter"
    assert is_count or metric.name in UNITLESS or metric.name.endswith(UNITS), "no unit"
    for label in metric.labels:
        assert label not in ("le", "quantile", "job", "instance")


def test_the_documentation_lists_each_metric() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for metric in names.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{metric.full_name}` | {labels} | {metric.kind}: {metric.help} |" in text
