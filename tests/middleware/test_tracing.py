"""Spans of sends and attempts, as a local collector gets them by OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import opentelemetry.trace
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from formrelay.brokers.contract import BrokerOptions
from formrelay.core.errors import NotNow, PartsFailed
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.testing import MemoryBroker
from tests.actors.receiver import Receiver, receiving
from tests.support.checkout import ROOT
from tests.support.command import clean_environment, run_python
from tests.support.harness import Harness
from tests.support.spans import CONSUMER, ERROR, PRODUCER, Spans, attribute, links
from tests.support.waiting import wait_until

SECRET = "SECRET-VALUE"
ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
TRACE = f"00-{ID}-{SPAN}-01"
THERE = (bytes.fromhex(ID), bytes.fromhex(SPAN))
SOON = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as collector:
        yield collector


@pytest.fixture
def traced(collector: Receiver, monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """The program's tracer provider, for this test alone."""
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", provider)
    collector.requests.clear()
    return provider


@pytest.fixture
def harness(unique: str) -> Iterator[Harness]:
    harness = Harness(MemoryBroker(), unique)
    yield harness
    harness.close()


def work_off(harness: Harness) -> None:
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()


def raiser(*errors: BaseException) -> Callable[..., None]:
    left = list(errors)

    def act(payload: Any = None) -> None:
        if left:
            raise left.pop(0)

    return act


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_send_and_its_attempt_are_spans_in_the_trace_of_the_sender(
    harness: Harness, collector: Receiver, traced: TracerProvider, kind: str
) -> None:
    inner = traced.get_tracer("x")
    child = harness.actor(raiser(), actor_name="child")

    def act(payload: str) -> None:
        with inner.start_as_current_span("inner"):
            child.send(payload)

    async def act_async(payload: str) -> None:
        act(payload)

    function = act if kind == "thread" else act_async
    options = {} if kind == "thread" else {"in_flight": 5}
    actor = harness.actor(function, actor_name="act", **options)
    with inner.start_as_current_span("request"):
        sent = actor.send(SECRET)
    work_off(harness)
    spans = Spans(collector)
    send, process = f"send {harness.queue}", f"process {harness.queue}"
    (ran,) = spans.of(process, "child")
    path = []
    while ran.parent_span_id:
        path.append((ran.name, ran.kind in (PRODUCER, CONSUMER)))
        ran = spans.parent(ran)
    assert [*path, ran.name] == [
        *((process, True), (send, True), ("inner", False), (process, True), (send, True)),
        "request",
    ]
    (produced,), (consumed,) = spans.of(send, "act"), spans.of(process, "act")
    assert (produced.kind, consumed.kind) == (PRODUCER, CONSUMER)
    for span, operation in ((produced, "send"), (consumed, "process")):
        found = {each.key: attribute(span, each.key) for each in span.attributes}
        assert found.pop("formrelay.attempt", 1) == 1
        assert found.pop("formrelay.outcome", "done") == "done"
        assert found == {
            "messaging.system": "memory",
            "messaging.destination.name": harness.queue,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.message.id": sent.message_id,
            "formrelay.actor": "act",
        }
    assert SECRET.encode() not in spans.text


def test_each_attempt_is_in_the_trace_and_links_to_the_attempt_before(
    harness: Harness, collector: Receiver, traced: TracerProvider
) -> None:
    not_now = NotNow("later", after=timedelta(0))
    act = raiser(ValueError(SECRET), not_now, KeyError(SECRET))
    actor = harness.actor(act, actor_name="act", policy=SOON)
    actor.send_with_options(args=(SECRET,), traceparent=TRACE)
    work_off(harness)
    (letter,) = harness.dead()
    harness.broker.replay(harness.queue, letter.id)
    work_off(harness)
    spans = Spans(collector)
    (sent,) = spans.named(f"send {harness.queue}")
    assert (sent.trace_id, sent.parent_span_id) == THERE
    attempts = spans.named(f"process {harness.queue}")
    assert {spans.parent(each).span_id for each in attempts} == {sent.span_id}
    told = [
        (attribute(each, "formrelay.attempt"), attribute(each, "formrelay.outcome"))
        for each in attempts
    ]
    assert told == [(1, "retry"), (2, "defer"), (2, "dead"), (1, "done")]
    first, deferred, last, replayed = attempts
    assert links(first) == []
    assert links(deferred) == links(last) == [(first.trace_id, first.span_id)]
    assert links(replayed) == [(last.trace_id, last.span_id)]
    errors = [(each.status.code, each.status.message) for each in attempts]
    assert errors == [(ERROR, "ValueError"), (0, ""), (ERROR, "KeyError"), (0, "")]
    assert attribute(last, "error.type") == "KeyError"
    assert attribute(last, "formrelay.reason") == "attempts_exhausted"
    # No exception events: they have the text of the error and the frames.
    assert not any(each.events for each in spans.all)
    assert SECRET.encode() not in spans.text


def test_a_batch_links_to_its_messages_whose_jobs_stay_in_their_traces(
    harness: Harness, collector: Receiver, traced: TracerProvider
) -> None:
    child = harness.actor(raiser(), actor_name="child")

    def collect(batch: list[Any]) -> None:
        child.send_with_options(caused_by=messages[0].message_id)
        if not failed:
            failed.append(True)
            raise PartsFailed({1: ValueError(SECRET)})

    failed: list[bool] = []
    options = {"batch_size": 200, "batch_wait": timedelta(minutes=1), "policy": SOON}
    actor = harness.actor(collect, actor_name="collect", **options)
    messages = [actor.message(number=number) for number in range(200)]
    for number, message in enumerate(messages):
        message.options["traceparent"] = f"00-{ID[:-4]}{number:04x}-{SPAN}-01"
    harness.broker.enqueue_many(messages)
    harness.start()
    harness.broker.join(harness.queue)  # moves the clock instead of waiting for the batch
    harness.stop()
    spans = Spans(collector)
    (sent,) = spans.of(f"send {harness.queue}", "collect")
    assert attribute(sent, "messaging.batch.message_count") == 200
    assert len(sent.links) == 128  # each message was in a trace of its own already
    batch, again = spans.of(f"process {harness.queue}", "collect")
    assert batch.parent_span_id == b""
    assert batch.trace_id != sent.trace_id
    assert attribute(batch, "messaging.batch.message_count") == 200
    found = links(batch)
    assert len(found) == 128
    assert found[0] == (bytes.fromhex(f"{ID[:-4]}0000"), bytes.fromhex(SPAN))
    assert attribute(batch, "formrelay.outcome") == "retry"
    # A batch of one message is in the trace of the message.
    assert (again.trace_id, again.parent_span_id) == (
        bytes.fromhex(f"{ID[:-4]}0001"),
        bytes.fromhex(SPAN),
    )
    assert links(again) == [(batch.trace_id, batch.span_id)]
    first, second = spans.of(f"process {harness.queue}", "child")
    assert first.trace_id == bytes.fromhex(f"{ID[:-4]}0000")
    assert second.trace_id == again.trace_id


def test_follow_up_messages_are_caused_by_the_span_of_the_attempt(
    harness: Harness, collector: Receiver, traced: TracerProvider
) -> None:
    harness.actor(lambda *_: None, actor_name="told")
    harness.actor(raiser(), actor_name="act").send_with_options(on_success="told")
    work_off(harness)
    spans = Spans(collector)
    (attempt,) = spans.of(f"process {harness.queue}", "act")
    (sent,) = spans.of(f"send {harness.queue}", "told")
    assert spans.parent(sent).span_id == attempt.span_id


def test_a_send_that_fails_is_an_error_without_its_text(
    harness: Harness, collector: Receiver, traced: TracerProvider
) -> None:
    actor = harness.actor(raiser(), actor_name="act")
    with pytest.raises(Exception, match="JSON"):
        actor.send({SECRET})
    (span,) = Spans(collector).all
    assert span.status.message == "formrelay.core.errors.InvalidJob"
    assert SECRET.encode() not in Spans(collector).text


def test_spans_can_be_switched_off_and_the_trace_is_passed_on(
    unique: str, collector: Receiver, traced: TracerProvider
) -> None:
    harness = Harness(MemoryBroker(options=BrokerOptions(makes_spans=False)), unique)
    actor = harness.actor(raiser(), actor_name="act")
    with traced.get_tracer("x").start_as_current_span("request") as request:
        actor.send()
    harness.start()
    wait_until(harness.is_empty)
    harness.close()
    (span,) = Spans(collector).all
    assert span.name == "request"
    assert request.get_span_context().is_valid


def test_a_broken_sampler_stops_no_job(
    harness: Harness, traced: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def should_sample(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken")

    monkeypatch.setattr(traced, "sampler", Broken())
    ran: list[int] = []
    actor = harness.actor(ran.append, actor_name="act")
    actor.send(1)
    harness.broker.enqueue_many([actor.message(2)])
    work_off(harness)
    assert ran == [1, 2]


def test_nothing_of_opentelemetry_is_imported_without_a_provider() -> None:
    code = """
import sys
for name in list(sys.modules):  # of the server that runs this
    if name.startswith(("opentelemetry", "sentry_sdk", "formrelay")):
        del sys.modules[name]
from formrelay.testing import MemoryBroker, running_worker
import dramatiq
broker = MemoryBroker()
actor = dramatiq.actor(lambda: None, broker=broker, actor_name="act", queue_name="q")
with running_worker(broker):
    actor.send()
    broker.join("q")
print([name for name in sys.modules if name.startswith(("opentelemetry", "sentry_sdk"))])
"""
    done = run_python("-c", code, cwd=ROOT.parent, env=clean_environment(PYTHONPATH=str(ROOT)))
    assert done.stdout.strip() == "[]", done.stderr
