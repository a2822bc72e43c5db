"""The trace of a sender goes through every job that it causes, on every broker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from dramatiq import group, pipeline
from dramatiq.middleware import CurrentMessage

from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.core.trace_context import TraceContext, current_trace
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = f"00-{ID}-00f067aa0ba902b7-01"
OTHER = f"00-{ID}-1111111111111111-00"
OPTIONS = {"traceparent": TRACE, "tracestate": "vendor=1"}
SOON = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))


class Notes:
    """The traces in which jobs ran, by the names of the jobs."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}

    def note(self, name: str) -> None:
        trace = current_trace.get()
        self.found.setdefault(name, []).append(trace and trace.traceparent)

    def when(self, *names: str) -> dict[str, list[Any]]:
        wait_until(lambda: self.found.keys() >= set(names))
        return {name: self.found[name] for name in names}


@pytest.fixture
def notes() -> Notes:
    return Notes()


def test_every_message_that_a_job_causes_is_in_its_trace(harness: Harness, notes: Notes) -> None:
    child = harness.actor(notes.note, actor_name="child")

    def told(*_: Any) -> None:
        notes.note("told")

    def parent() -> str:
        notes.note("parent")
        child.send("send")
        child.send_with_options(args=("delayed",), delay=1)
        harness.broker.enqueue_many([child.message("many"), child.message("more")])
        group([child.message("group")], broker=harness.broker).run()
        child.send_with_options(args=("own",), traceparent=OTHER)
        return "piped"

    async def asynchronous() -> None:
        notes.note("async")
        child.send("from async")

    def fail() -> None:
        notes.note("fail")
        raise ValueError

    harness.actor(told, actor_name="told")
    first = harness.actor(parent).message_with_options(on_success="told", **OPTIONS)
    pipeline([first, child.message()], broker=harness.broker).run()
    harness.actor(asynchronous, in_flight=5).send_with_options(**OPTIONS)
    harness.actor(fail, policy=SOON).send_with_options(on_failure="told", **OPTIONS)
    harness.start()
    names = ("parent", "send", "delayed", "many", "more", "group", "async", "from async", "piped")
    assert notes.when(*names) == {name: [TRACE] for name in names}
    assert notes.when("own") == {"own": [OTHER]}
    wait_until(lambda: len(notes.found.get("told", [])) == 3)
    assert notes.found["told"] == [TRACE] * 3
    assert notes.found["fail"] == [TRACE] * 2  # the retry is in the trace too
    child.send("outside")
    assert notes.when("outside") == {"outside": [None]}


def test_a_replay_and_its_messages_stay_in_the_trace(harness: Harness, notes: Notes) -> None:
    def fail() -> None:
        notes.note("ran")
        raise ValueError

    harness.actor(fail, policy=SOON.but(max_attempts=1)).send_with_options(**OPTIONS)
    harness.start()
    (letter,) = wait_until(harness.dead)
    harness.broker.replay(harness.queue, letter.id)
    wait_until(lambda: len(notes.found["ran"]) == 2)
    assert notes.found["ran"] == [TRACE, TRACE]
    assert {name: letter.message.options[name] for name in OPTIONS} == OPTIONS


def test_messages_of_other_publishers_have_their_trace_in_the_metadata(
    harness: Harness, notes: Notes
) -> None:
    def act(payload: str, metadata: Any = None) -> None:
        notes.note(payload)
        message: Any = CurrentMessage.get_current_message()
        notes.found["options"] = [message.options]

    actor = harness.actor(act, job_type="x.act")
    metadata = {"traceparent": TRACE, "tracestate": "vendor=1"}
    harness.inject(orjson.dumps({"type": "x.act", "payload": "plain", "metadata": metadata}))
    harness.start()
    assert notes.when("plain") == {"plain": [TRACE]}
    actor.send("positional", metadata)
    assert notes.when("positional") == {"positional": [TRACE]}
    assert notes.found["options"] == [{}]  # nothing is stored twice


def test_a_message_of_a_batch_actor_is_in_the_trace_of_the_part_that_it_names(
    harness: Harness, notes: Notes
) -> None:
    child = harness.actor(notes.note, actor_name="child")

    def collect(batch: list[Any]) -> None:
        message: Any = CurrentMessage.get_current_message()
        for part in message.parts:
            name = part.kwargs["name"]
            child.send_with_options(args=(name,), caused_by=part.message_id)
        child.send(f"of {len(batch)}")

    options = {"batch_size": 2, "batch_wait": timedelta(minutes=1)}
    actor = harness.actor(collect, **options)
    messages = [actor.message(name="traced"), actor.message(name="not traced")]
    messages[0].options.update(OPTIONS)
    harness.broker.enqueue_many(messages)
    harness.start()
    found = notes.when("traced", "not traced", "of 2")
    assert found == {"traced": [TRACE], "not traced": [None], "of 2": [None]}


@pytest.mark.parametrize("value", [5, ["x"], {}, "00-1-2-03", f"{TRACE}\n"], ids=repr)
def test_a_malformed_trace_breaks_no_job(harness: Harness, notes: Notes, value: Any) -> None:
    child = harness.actor(notes.note, actor_name="child")

    def parent(metadata: Any) -> None:
        notes.note("parent")
        child.send("child")

    actor = harness.actor(parent)
    actor.send_with_options(kwargs={"metadata": {"traceparent": value}}, traceparent=value)
    harness.start()
    assert notes.when("parent", "child") == {"parent": [None], "child": [None]}


def test_a_sender_may_have_a_trace_of_its_own(harness: Harness, notes: Notes) -> None:
    child = harness.actor(notes.note, actor_name="child")
    token = current_trace.set(TraceContext(ID, "2222222222222222"))
    sent = [child.send("here"), child.send_with_options(args=("given",), **OPTIONS)]
    current_trace.reset(token)
    assert "traceparent" not in sent[0].options  # the message is the sender's
    harness.start()
    assert notes.when("here", "given") == {
        "here": [f"00-{ID}-2222222222222222-00"],
        "given": [TRACE],
    }
