"""``async`` actors wait in the event loop without occupying a worker thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import CurrentMessage, Middleware

from formrelay.core.errors import NotNow, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0), timedelta(0))))


class Reply:
    """An awaitable that a test completes from any thread."""

    def __init__(self) -> None:
        self._future: asyncio.Future[str] | None = None
        self.is_awaited = threading.Event()

    def __await__(self) -> Generator[Any, None, str]:
        self._future = asyncio.get_running_loop().create_future()
        self.is_awaited.set()
        return self._future.__await__()

    def give(self) -> None:
        assert self.is_awaited.wait(60)
        assert self._future is not None
        self._future.get_loop().call_soon_threadsafe(self._future.set_result, "it")


def awaiting(
    harness: Harness,
    function: Callable[..., Coroutine[Any, None, None]],
    *,
    in_flight: int = 50,
    **options: Any,
) -> dramatiq.Actor[..., Any]:
    """Declare an ``async`` function as an actor."""

    return harness.actor(function, in_flight=in_flight, **options)


def test_one_thread_starts_many_jobs_and_each_is_settled_at_its_end(harness: Harness) -> None:
    replies = [Reply() for _ in range(40)]
    done: list[int] = []

    async def wait_for(number: int) -> None:
        assert await replies[number] == "it"
        done.append(number)

    actor = awaiting(harness, wait_for)
    for number in range(40):
        actor.send(number)
    harness.start(threads=1)
    for reply in replies:
        assert reply.is_awaited.wait(60)
    for reply in reversed(replies):
        reply.give()
    wait_until(lambda: len(done) == 40)
    assert done == list(reversed(range(40)))
    wait_until(harness.is_empty)


def test_errors_after_an_await_are_classified_like_any_error(harness: Harness) -> None:
    tries: list[str] = []

    async def fail(kind: str) -> None:
        reply = Reply()
        threading.Timer(0.05, reply.give).start()
        await reply
        tries.append(kind)
        if kind == "permanent":
            raise SinkPermanent("no good", code=400)
        if kind == "twice":
            raise SinkTransient("away", code=503)
        if kind == "later" and tries.count("later") == 1:
            raise NotNow("busy", after=timedelta(milliseconds=200))

    actor = awaiting(harness, fail, policy=SOON)
    for kind in ("permanent", "twice", "later"):
        actor.send(kind)
    harness.start()
    letters = wait_until(lambda: len(harness.dead()) == 2 and harness.dead())
    reasons = {letter.message.args[0]: letter.failure.reason for letter in letters}
    assert reasons == {"permanent": Reason.PERMANENT, "twice": Reason.ATTEMPTS_EXHAUSTED}
    wait_until(lambda: tries.count("later") == 2)
    wait_until(harness.is_empty)
    assert (tries.count("permanent"), tries.count("twice")) == (1, 2)


def test_an_actor_may_await_several_times_or_never_or_fail_at_once(harness: Harness) -> None:
    done: list[str] = []

    async def wait(times: int) -> None:
        if times < 0:
            raise SinkPermanent("at once")
        for _ in range(times):
            reply = Reply()
            threading.Timer(0.02, reply.give).start()
            await reply
        done.append(f"{times} times")

    actor = awaiting(harness, wait)
    for times in (3, 0, -1):
        actor.send(times)
    harness.start()
    wait_until(lambda: sorted(done) == ["0 times", "3 times"])
    wait_until(harness.dead)
    wait_until(harness.is_empty)


def test_after_process_message_runs_after_the_coroutine(harness: Harness) -> None:
    reply = Reply()
    heard: list[str] = []

    class Listener(Middleware):
        def after_process_message(
            self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            heard.append(type(exception).__name__)

    async def fail() -> None:
        await reply
        raise SinkPermanent("no")

    async def at_once() -> None:
        assert CurrentMessage.get_current_message().actor_name == "at_once"
        heard.append("at once")

    harness.broker.add_middleware(Listener())
    awaiting(harness, fail).send()
    harness.start(threads=1)
    assert reply.is_awaited.wait(60)
    # By now the worker thread runs the next message.
    awaiting(harness, at_once).send()
    wait_until(lambda: heard == ["at once", "NoneType"])
    reply.give()
    wait_until(lambda: heard == ["at once", "NoneType", "SinkPermanent"])


def test_a_stopping_worker_finishes_started_jobs_and_requeues_the_others(
    harness: Harness,
) -> None:
    begun: list[int] = []
    done: list[int] = []

    async def wait(number: int) -> None:
        begun.append(number)
        reply = Reply()
        threading.Timer(1, reply.give).start()
        await reply
        done.append(number)

    actor = awaiting(harness, wait, in_flight=4)
    for number in range(200):
        actor.send(number)
    harness.start(threads=1)
    wait_until(lambda: len(begun) >= 4)
    harness.stop()
    assert sorted(done) == sorted(begun)
    assert len(begun) < 200
    # RabbitMQ counts requeued messages a moment later.
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 200 - len(done))


def test_jobs_that_wait_for_long_do_not_delay_others(harness: Harness) -> None:
    begun: list[str] = []
    replies: list[Reply] = []

    async def wait(kind: str) -> None:
        begun.append(kind)
        if kind == "slow":
            replies.append(Reply())
            await replies[-1]

    actor = awaiting(harness, wait, in_flight=2, in_flight_total=20)
    for _ in range(8):
        actor.send("slow")
    actor.send("quick")
    harness.start(threads=1)
    wait_until(lambda: "quick" in begun)
    wait_until(lambda: len(replies) == 8)
    for reply in replies:
        reply.give()
    wait_until(harness.is_empty)


@pytest.mark.parametrize("number", [1, 3])
def test_a_direct_call_returns_the_result(harness: Harness, number: int) -> None:
    async def wait() -> int:
        for _ in range(number):
            await asyncio.sleep(0.02)
        return number

    actor = awaiting(harness, wait)
    started = time.monotonic()
    assert actor() == number
    assert time.monotonic() - started >= 0.02 * number
