"""``async`` actors: they can await anything of asyncio, and can be cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from datetime import timedelta
from threading import Thread
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import AsyncIO, Middleware

from formrelay.brokers import consumer
from formrelay.core.errors import ConfigError
from formrelay.core.failure import Reason
from tests.brokers.contract.test_awaiting import SOON, awaiting
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ONCE = SOON.but(max_attempts=1)


async def _sleep() -> str:
    await asyncio.sleep(0.01)
    return "slept"


async def _other_thread() -> str:
    name = await asyncio.to_thread(lambda: threading.current_thread().name)
    return "another thread" if name != threading.current_thread().name else name


async def _task_group() -> str:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_sleep()) for _ in range(3)]
    return " ".join(task.result() for task in tasks)


async def _time_out() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return "timed out"
    return "slept"


async def _connection() -> str:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        found = await reader.read()
        writer.close()
        await writer.wait_closed()
    return f"{len(found)} bytes"


def test_an_actor_awaits_anything_of_asyncio(harness: Harness) -> None:
    found: list[str] = []

    async def work(name: str) -> None:
        found.append(await globals()[name]())

    actor = awaiting(harness, work)
    for name in ("_sleep", "_other_thread", "_task_group", "_time_out", "_connection"):
        actor.send(name)
    harness.start(threads=1)
    wait_until(lambda: len(found) == 5)
    assert set(found) == {"slept", "another thread", "slept slept slept", "timed out", "0 bytes"}
    wait_until(harness.is_empty)


def test_two_hundred_jobs_run_at_once(harness: Harness) -> None:
    count = 0
    all_begun = asyncio.Event()

    async def work() -> None:
        nonlocal count
        count += 1
        if count == 200:
            all_begun.set()
        await all_begun.wait()

    actor = awaiting(harness, work, in_flight=200)
    harness.broker.enqueue_many(actor.message() for _ in range(200))
    harness.start(threads=1)
    wait_until(all_begun.is_set, timeout=20)
    wait_until(harness.is_empty)
    assert count == 200


def test_no_more_jobs_run_than_in_flight_and_all_run(harness: Harness) -> None:
    now = most = count = 0

    async def work() -> None:
        nonlocal now, most, count
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        count += 1

    actor = awaiting(harness, work, in_flight=4)
    harness.broker.enqueue_many(actor.message() for _ in range(60))
    harness.start(threads=1)
    wait_until(lambda: count == 60)
    assert most == 4
    wait_until(harness.is_empty)


def test_long_runs_count_against_the_total_instead_of_in_flight(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.brokers.async_attempts.LONG_AFTER", 0.1)
    begun: list[int] = []
    may_end = asyncio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        await may_end.wait()

    actor = awaiting(harness, work, in_flight=2, in_flight_total=20)
    for number in range(30):
        actor.send(number)
    harness.start(threads=1)
    wait_until(lambda: len(begun) == 20, timeout=20)
    threading.Event().wait(0.7)
    assert len(begun) == 20
    harness.broker.async_runner.loop.call_soon_threadsafe(may_end.set)
    wait_until(lambda: len(begun) == 30)
    wait_until(harness.is_empty)
    assert sorted(begun) == list(range(30))


def test_a_job_over_its_time_limit_is_cancelled_and_fails(harness: Harness) -> None:
    raised: list[type[BaseException]] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            raised.append(type(error))
            await asyncio.sleep(0.01)  # it may need time to clean up
            raise

    awaiting(harness, work, policy=ONCE, time_limit=300).send()
    harness.start(threads=1)
    (letter,) = wait_until(harness.dead)
    assert raised == [asyncio.CancelledError]
    assert letter.failure.error.endswith("TimeLimitExceeded")
    assert any(place.endswith(" work") for place in letter.failure.where)
    wait_until(harness.is_empty)


def test_an_invalid_time_limit_of_a_message_affects_no_other(harness: Harness) -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await asyncio.sleep(0.5 if name == "wrong" else 60)
        done.append(name)

    actor = awaiting(harness, work, policy=ONCE, time_limit=600)
    # From a program with stock Dramatiq: our send() refuses it.
    harness.inject(actor.message_with_options(args=("wrong",), time_limit="soon").encode())
    actor.send("late")
    harness.start(threads=1)
    (letter,) = wait_until(harness.dead)
    assert letter.failure.error.endswith("TimeLimitExceeded")
    assert done == ["wrong"]


def test_one_that_is_cancelled_by_its_own_doing_has_failed(harness: Harness) -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    awaiting(harness, work, policy=ONCE).send()
    harness.start(threads=1)
    (letter,) = wait_until(harness.dead)
    assert letter.failure.error.endswith("CancelledError")


@pytest.mark.parametrize("is_notified", [True, False])
def test_a_stopping_worker_cancels_and_requeues_slow_jobs(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, is_notified: bool
) -> None:
    """At once if the actor has `notify_shutdown`, else after the grace period."""
    if not is_notified:
        monkeypatch.setattr(consumer, "_FINISH_SECONDS", 0.5)
    seen: Counter[str] = Counter()

    async def work() -> None:
        seen["begun"] += 1
        try:
            await asyncio.sleep(60 if seen["begun"] == 1 else 0)
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise
        seen["done"] += 1

    awaiting(harness, work, policy=ONCE, notify_shutdown=is_notified).send()
    harness.start(threads=1)
    wait_until(lambda: seen["begun"])
    harness.stop()
    assert seen == {"begun": 1, "cancelled": 1}
    harness.start(threads=1)
    wait_until(lambda: seen["done"], timeout=20)
    wait_until(harness.is_empty)
    assert seen == {"begun": 2, "cancelled": 1, "done": 1}
    assert harness.dead() == []  # its only attempt was not used


@pytest.mark.parametrize("sends", [True, False], ids=["with a callback", "without a callback"])
@pytest.mark.parametrize("kind", ["returns", "raises"])
def test_a_cancellation_left_behind_does_not_prevent_the_settlement(
    harness: Harness, kind: str, sends: bool
) -> None:
    """The actor cancels its own task, and ends before the cancellation arrives."""
    done: list[str] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if kind == "raises":
            raise ValueError

    async def note(_message: Any, _result: Any) -> None:
        done.append("followed")

    awaiting(harness, note)
    options = {"on_success": "note", "on_failure": "note"} if sends else {}
    awaiting(harness, work, policy=ONCE, **options).send()
    harness.start(threads=1, timeout=2000)
    if kind == "raises":
        (letter,) = wait_until(harness.dead)
        assert letter.failure.error.endswith("ValueError")
    wait_until(harness.is_empty)
    wait_until(lambda: len(done) == sends)
    wait_until(lambda: harness.broker.async_runner.running(harness.queue) == 0)


def test_a_hook_that_raises_cancelled_error_ends_no_attempt_without_settling(
    harness: Harness,
) -> None:
    class Cancels(Middleware):
        def after_process_message(self, _broker: Any, _message: Any, **_: Any) -> None:
            raise asyncio.CancelledError

    async def work() -> None:
        await asyncio.sleep(0)

    harness.broker.add_middleware(Cancels())
    awaiting(harness, work, policy=ONCE).send()
    harness.start(threads=1)
    (letter,) = wait_until(harness.dead)
    assert letter.failure.reason is Reason.UNDECIDED
    wait_until(lambda: harness.broker.async_runner.running(harness.queue) == 0)


def test_a_stopping_worker_waits_for_all_queues_at_the_same_time(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dramatiq closes the consumers one after the other."""
    monkeypatch.setattr(consumer, "_FINISH_SECONDS", 1.0)
    begun: list[int] = []
    cancelled: list[float] = []

    async def work(number: int) -> None:
        begun.append(number)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(time.monotonic())
            raise

    for number in range(3):
        dramatiq.actor(
            work,
            actor_name=f"work{number}",
            broker=harness.broker,
            queue_name=f"{harness.queue}.{number}",
            in_flight=2,
        ).send(number)
    harness.start(threads=1)
    wait_until(lambda: len(begun) == 3)
    since = time.monotonic()
    harness.stop()
    assert len(cancelled) == 3
    assert max(cancelled) - min(cancelled) < 0.9
    assert time.monotonic() - since < 10


def test_a_long_pause_shortens_no_later_stop(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "_FINISH_SECONDS", 0.2)
    monkeypatch.setattr(consumer, "_INTERRUPT_SECONDS", 0.2)
    begun: list[int] = []
    may_end: set[int] = set()
    cancelled: list[int] = []
    steps: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        try:
            while number not in may_end:
                await asyncio.sleep(0.05)
                steps.append(number)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    actor = awaiting(harness, work)
    actor.send(1)
    harness.start(threads=1)
    wait_until(lambda: 1 in begun)
    assert harness.worker is not None
    harness.worker.pause()
    may_end.add(1)
    harness.worker.resume()
    monkeypatch.setattr(consumer, "_FINISH_SECONDS", 60.0)
    actor.send(2)
    wait_until(lambda: 2 in begun)
    stopping = Thread(target=harness.stop)
    stopping.start()
    wait_until(lambda: harness.broker.is_stopping)
    # Attempts that must end are interrupted every 0.25 s: run on for at least 1 s.
    enough = len(steps) + 20
    wait_until(lambda: len(steps) >= enough or cancelled)
    may_end.add(2)
    stopping.join()
    assert cancelled == []


def test_errors_of_hooks_and_tasks_affect_no_other_attempt(harness: Harness) -> None:
    done: list[int] = []

    class Exits(Middleware):
        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            if message.args[0] == 1:
                raise SystemExit

    async def leave() -> None:
        raise KeyboardInterrupt

    async def work(number: int) -> None:
        if number == 2:
            background.append(asyncio.create_task(leave()))
        await asyncio.sleep(0.1)
        if number == 3:
            raise SystemExit
        done.append(number)

    background: list[asyncio.Task[None]] = []
    harness.broker.add_middleware(Exits())
    actor = awaiting(harness, work, policy=ONCE)
    for number in range(8):
        actor.send(number)
    harness.start(threads=1)
    letters = wait_until(lambda: len(harness.dead()) == 2 and harness.dead())
    reasons = {letter.message.args[0]: letter.failure.reason for letter in letters}
    assert reasons.keys() == {1, 3}
    assert reasons[1] is Reason.UNDECIDED
    assert set(done) == {0, 1, 2, 4, 5, 6, 7}
    wait_until(harness.is_empty)
    # Otherwise asyncio logs the exception when the task is collected, perhaps in another test.
    assert isinstance(background[0].exception(), KeyboardInterrupt)


def test_an_actor_may_await_another_actor(harness: Harness) -> None:
    found: list[int] = []

    async def double(number: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * number

    async def work(number: int) -> None:
        found.append(await doubling(number))

    doubling = awaiting(harness, double)
    awaiting(harness, work).send(21)
    harness.start(threads=1)
    wait_until(lambda: found == [42])


def test_without_in_flight_an_async_actor_runs_in_dramatiqs_asyncio(harness: Harness) -> None:
    """A worker thread waits for it, as with Dramatiq's AsyncIO middleware."""
    found: list[str] = []

    async def one() -> None:
        await asyncio.sleep(0.01)
        found.append("one by one")

    async def many() -> None:
        await asyncio.sleep(0.01)
        found.append(threading.current_thread().name)

    harness.broker.add_middleware(AsyncIO())
    harness.actor(one).send()
    awaiting(harness, many).send()
    harness.start(threads=1)
    wait_until(lambda: len(found) == 2)
    assert set(found) == {"one by one", "formrelay-loop"}
    wait_until(harness.is_empty)


def test_closing_the_broker_ends_its_threads(harness: Harness) -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    before = set(threading.enumerate())
    awaiting(harness, work, on_success="work").send()
    harness.start(threads=1)
    wait_until(lambda: {"formrelay-loop"} <= {one.name for one in _ours(before)})
    harness.close()
    wait_until(lambda: not _ours(before))


def _ours(before: set[threading.Thread]) -> list[threading.Thread]:
    return [
        one
        for one in set(threading.enumerate()) - before
        if one.name.startswith(("formrelay-loop", "formrelay-settling", "formrelay-quarantine"))
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_flight": 0}, "expected in_flight to be a whole number from 1 on, got 0"),
        ({"in_flight": True}, "expected in_flight to be a whole number from 1 on, got True"),
        ({"batch_size": "10"}, "expected batch_size to be a whole number from 1 on, got '10'"),
        ({"in_flight": 2, "batch_size": 2}, "expected in_flight or batch_size, got both"),
        ({"max_age": "1h"}, "work: expected max_age to be milliseconds, zero or more, got '1h'"),
        ({"max_age": -1}, "work: expected max_age to be milliseconds, zero or more, got -1"),
    ],
    ids=["zero", "a bool", "text", "both", "an age as text", "an age below zero"],
)
def test_invalid_limits_are_refused_at_the_declaration(
    harness: Harness, options: dict[str, Any], message: str
) -> None:
    async def work() -> None: ...

    with pytest.raises(ConfigError, match=message):
        harness.actor(work, actor_name="work", batch_wait=timedelta(seconds=1), **options)
    assert "work" not in harness.broker.actors
