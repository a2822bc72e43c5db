"""examples/packages/with_opentelemetry.py, and the package opentelemetry-instrumentor-dramatiq."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.actors.receiver import Receiver, receiving
from tests.examples.packages.running import Place, environment, worker
from tests.support.command import run_python
from tests.support.spans import ERROR, Spans, milliseconds


def send(place: Place, collector: Receiver, *program: str) -> str:
    env = environment(place, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    done = run_python(*program, cwd=place.folder, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def spans(place: Place) -> Iterator[Spans]:
    """The spans of jobs that succeed, fail, and are deferred."""
    with receiving() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with worker(place, "with_opentelemetry", "calls", **endpoint) as program:
            sent = json.loads(send(place, collector, "-m", "tests.examples.packages.calls"))
            program.wait_for_outcomes(done=4, dead=2)
        place.broker.declare_queue("calls")
        failed = {sent["call failed"], sent["call_async failed"]}
        assert {letter.id for letter in place.dead("calls")} == failed
        yield Spans(collector)


@pytest.mark.parametrize("actor", ["call", "call_async"])
def test_a_span_lasts_as_long_as_its_attempt_in_the_trace_of_the_sender(
    spans: Spans, actor: str
) -> None:
    (request,) = spans.named("request")
    found = spans.of("process calls", actor)
    sent = {spans.parent(span).span_id: spans.parent(span) for span in found}
    assert len(sent) == 3
    assert {span.name for span in sent.values()} == {"send calls"}
    assert {spans.parent(span).span_id for span in sent.values()} == {request.span_id}
    assert sum(milliseconds(span) >= 499 for span in found) == 1
    assert len(found) > 3  # a span for each deferral


def test_the_worker_makes_a_provider_and_sends_its_last_spans_before_its_end(spans: Spans) -> None:
    assert "formrelay" in spans.services
    dialled = spans.named("dial")  # a span of the program
    assert len(dialled) == 6
    assert {spans.parent(span).name for span in dialled} == {"process calls"}


@pytest.mark.parametrize("actor", ["call", "call_async"])
def test_failures_alone_are_errors_and_their_text_is_not_sent(spans: Spans, actor: str) -> None:
    statuses = [
        (span.status.code, span.status.message) for span in spans.of("process calls", actor)
    ]
    assert Counter(statuses)[ERROR, "ConnectionError"] == 1
    assert {status for status in statuses if status[0]} == {(ERROR, "ConnectionError")}
    assert b"secret" not in spans.text


def test_the_instrumentor_traces_threads_and_async_attempts_alike(place: Place) -> None:
    module = "tests.examples.packages.instrumented"
    with receiving() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with worker(place, module, "instrumented", **endpoint) as program:
            send(place, collector, "-m", module, "3")
            program.wait_for_outcomes(done=6)
        spans = Spans(collector)
    consumers = spans.named("dramatiq.worker.WorkerThread")
    assert len(consumers) == 6
    assert min(map(milliseconds, consumers)) >= 499
    for actor in ("call", "call_async"):
        producers = spans.named(f"dramatiq.producer.{actor}")
        mine = [span for span in consumers if spans.parent(span) in producers]
        assert len(mine) == 3
    # formrelay makes no spans of the same jobs.
    assert not any(span.name.endswith(" instrumented") for span in spans.all)
    # What an actor traces belongs to the trace of its own sender.
    assert {spans.parent(span).name for span in spans.named("inner")} == {
        "dramatiq.producer.call",
        "dramatiq.producer.call_async",
    }
