"""A job that is sent while another job runs carries the id of that job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from dramatiq import pipeline
from dramatiq.middleware import CurrentMessage

from formrelay.core.errors import InvalidJob, SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until


class Caused:
    """An actor `child` that notes the option `caused_by` of its messages, by their argument."""

    def __init__(self, harness: Harness) -> None:
        self.found: dict[str, Any] = {}
        self.child = harness.actor(self.note, actor_name="child")

    def note(self, name: str) -> None:
        message: Any = CurrentMessage.get_current_message()
        self.found[name] = message.options.get("caused_by")

    def when(self, *names: str) -> list[Any]:
        wait_until(lambda: self.found.keys() >= set(names))
        return [self.found[name] for name in names]


@pytest.fixture
def caused(harness: Harness) -> Caused:
    return Caused(harness)


def test_every_way_of_sending_in_a_job_names_the_job(harness: Harness, caused: Caused) -> None:
    child = caused.child

    def send() -> None:
        child.send("send")
        child.send_with_options(args=("delayed",), delay=1)
        harness.broker.enqueue_many([child.message("many")])
        own: Any = CurrentMessage.get_current_message()
        harness.broker.enqueue(own.message.copy(actor_name="child", args=("copy",), message_id="c"))
        asyncio.run(asyncio.to_thread(child.send, "thread"))
        context = copy_context()
        thread = Thread(target=context.run, args=(child.send, "context"))
        thread.start()
        thread.join()
        child.send_with_options(args=("named",), caused_by="another")

    parent = harness.actor(send, actor_name="parent")
    names = ("send", "delayed", "many", "copy", "thread", "context")
    sent = parent.send_with_options(caused_by="earlier")
    harness.start()
    assert caused.when(*names) == [sent.message_id] * len(names)
    assert caused.when("named") == ["another"]
    child.send("outside")
    assert caused.when("outside") == [None]


def test_a_coroutine_and_its_tasks_name_the_job(harness: Harness, caused: Caused) -> None:
    async def send(name: str) -> None:
        caused.child.send(name)
        await asyncio.gather(asyncio.to_thread(caused.child.send, f"{name} thread"), task(name))

    async def task(name: str) -> None:
        await asyncio.sleep(0)
        caused.child.send(f"{name} task")

    parent = harness.actor(send, actor_name="parent", in_flight=10)
    ids = {name: parent.send(name).message_id for name in ("a", "b")}
    harness.start()
    for name, id in ids.items():
        assert caused.when(name, f"{name} thread", f"{name} task") == [id] * 3


def test_follow_up_messages_name_the_job_before_them(harness: Harness, caused: Caused) -> None:
    def first() -> str:
        return "piped"

    def fail() -> None:
        raise ValueError

    def told(*_: Any) -> None:
        caused.note("told")

    harness.actor(told, actor_name="told")
    messages = [harness.actor(first).message(), caused.child.message()]
    chain = pipeline(messages, broker=harness.broker)
    failing = harness.actor(fail, max_retries=0)
    before = chain.run().messages[0].message_id
    failed = failing.send_with_options(on_failure="told").message_id
    harness.start()
    assert caused.when("piped") == [before]
    assert caused.when("told") == [failed]


def test_a_batch_of_one_names_its_message_and_a_larger_batch_names_none(
    harness: Harness, caused: Caused
) -> None:
    def send(batch: list[dict[str, Any]]) -> None:
        caused.child.send(str(len(batch)))

    options = {"batch_size": 2, "batch_wait": timedelta(milliseconds=100)}
    parent = harness.actor(send, actor_name="parent", **options)
    sent = parent.send(number=0)
    harness.start()
    assert caused.when("1") == [sent.message_id]
    harness.stop()
    caused.found.clear()
    while not caused.found.keys() >= {"2"}:  # on a slow machine, two messages may be two batches
        harness.broker.enqueue_many([parent.message(number=number) for number in range(2)])
        harness.start()
        wait_until(lambda: caused.found)
        wait_until(harness.is_empty)
        harness.stop()
    assert caused.found["2"] is None


def test_a_job_keeps_its_cause_through_retries_and_a_replay(harness: Harness) -> None:
    soon = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))

    def fail() -> None:
        raise SinkTransient("busy")

    harness.actor(fail, policy=soon).send_with_options(caused_by="parent-1")
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.message.options["caused_by"] == "parent-1"
    at = letter.died
    harness.broker.replay(harness.queue, letter.id)
    (again,) = wait_until(lambda: [one for one in harness.dead() if one.died != at])
    assert again.message.options["caused_by"] == "parent-1"


@pytest.mark.parametrize("cause", [5, ["id"], {}])
def test_a_cause_that_is_no_id_is_refused(caused: Caused, cause: Any) -> None:
    send: Callable[..., Any] = caused.child.send_with_options
    with pytest.raises(InvalidJob, match="caused_by to be the id of a job"):
        send(args=("x",), caused_by=cause)
