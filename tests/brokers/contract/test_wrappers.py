"""Packages that wrap actors or worker threads, and packages that abort: also with async actors."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dramatiq
import dramatiq.worker
import dramatiq_abort
import pytest
from dramatiq.middleware import Callbacks, Middleware
from dramatiq_abort.backends.stub import StubBackend

from formrelay.brokers import BrokerUnavailable
from formrelay.core.errors import ConfigError
from tests.brokers.contract import test_asyncio_actors as in_the_loop
from tests.brokers.contract import test_awaiting
from tests.support.harness import Harness
from tests.support.waiting import wait_until

#: Seconds that a job takes.
LONG = 0.3


class Spans:
    """Notes how long each named span lasted."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.ended[name] = time.monotonic() - began

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return wrapper


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_what_wraps_an_async_actor_ends_with_the_job(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = Spans()
    threads, actors = dramatiq.worker._WorkerThread, dramatiq.Actor
    for kind, name in ((threads, "process_message"), (actors, "__call__")):
        monkeypatch.setattr(kind, name, spans.around(name, getattr(kind, name)))

    class Wraps(Middleware):
        def after_declare_actor(self, _broker: Any, actor: dramatiq.Actor[Any, Any]) -> None:
            actor.fn = spans.around("fn", actor.fn)

    harness.broker.add_middleware(Wraps())
    harness.actor(sleep, in_flight=2).send(LONG)
    harness.start()
    wait_until(lambda: "process_message" in spans.ended)
    wait_until(harness.is_empty)
    assert spans.ended.keys() == {"process_message", "__call__", "fn"}
    assert min(spans.ended.values()) >= LONG


def test_hooks_and_the_actor_of_an_async_attempt_share_a_context(harness: Harness) -> None:
    number: ContextVar[str] = ContextVar("number", default="none")
    seen: list[tuple[str, str]] = []

    class Sets(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            message.token = number.set(message.message_id)

        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            seen.append((message.message_id, number.get()))
            number.reset(message.token)

    async def act() -> None:
        await asyncio.sleep(0.05)
        found.append(number.get())

    found: list[str] = []
    harness.broker.add_middleware(Sets())
    actor = harness.actor(act, in_flight=20)
    sent = {actor.send().message_id for _ in range(20)}
    harness.start()
    wait_until(lambda: len(seen) == 20)
    assert {one for one, _ in seen} == sent == set(found)
    assert all(own == given for own, given in seen)


def test_an_async_actor_may_fail_and_retry_inside_its_wrapper(harness: Harness) -> None:
    caught: list[str] = []

    def retries(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper() -> Any:
            try:
                return function()
            except ValueError as error:
                caught.append(str(error))
                return function()

        return wrapper

    class Wraps(Middleware):
        def after_declare_actor(self, _broker: Any, actor: dramatiq.Actor[Any, Any]) -> None:
            actor.fn = retries(actor.fn)

    async def act() -> None:
        await asyncio.sleep(0)
        if not caught:
            raise ValueError("first")
        ran.append(1)

    ran: list[int] = []
    harness.broker.add_middleware(Wraps())
    harness.actor(act, in_flight=1).send()
    harness.start()
    wait_until(lambda: ran)
    assert (caught, ran) == (["first"], [1])
    assert harness.dead() == []


def test_in_flight_is_the_maximum_also_of_long_runs(harness: Harness) -> None:
    running: set[int] = set()
    together: list[int] = []

    async def act(number: int) -> None:
        running.add(number)
        together.append(len(running))
        await asyncio.sleep(1.5)
        running.remove(number)

    actor = harness.actor(act, in_flight=2)
    for number in range(6):
        actor.send(number)
    harness.start()
    wait_until(lambda: len(together) == 6)
    wait_until(harness.is_empty)
    assert max(together) == 2


def test_an_abort_cancels_its_async_attempt_and_no_other(harness: Harness) -> None:
    abortable = dramatiq_abort.Abortable(backend=StubBackend())
    harness.broker.add_middleware(abortable)
    done: list[int] = []
    ended: list[str] = []

    async def act(number: int) -> None:
        try:
            begun.append(number)
            await asyncio.sleep(3)
            done.append(number)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    begun: list[int] = []
    actor = harness.actor(act, in_flight=10, max_retries=0)
    sent = [actor.send(number) for number in range(4)]
    harness.start()
    wait_until(lambda: len(begun) == 4)
    for message in (sent[1], sent[2]):
        dramatiq_abort.abort(message.message_id, middleware=abortable)
    wait_until(lambda: len(done) == 2 and len(harness.dead()) == 2)
    assert (sorted(done), ended) == ([0, 3], ["CancelledError", "CancelledError"])
    letters = {letter.id: letter.failure.error for letter in harness.dead()}
    assert letters.keys() == {sent[1].message_id, sent[2].message_id}
    assert all(error.endswith(".Abort") for error in letters.values())


class ByThread(Middleware):
    """A middleware that asks for a thread for each attempt."""

    by_thread = True


@pytest.mark.parametrize(
    "test",
    [
        in_the_loop.test_an_actor_awaits_anything_of_asyncio,
        in_the_loop.test_two_hundred_jobs_run_at_once,
        in_the_loop.test_no_more_jobs_run_than_in_flight_and_all_run,
        in_the_loop.test_a_job_over_its_time_limit_is_cancelled_and_fails,
        in_the_loop.test_one_that_is_cancelled_by_its_own_doing_has_failed,
        test_awaiting.test_errors_after_an_await_are_classified_like_any_error,
        test_awaiting.test_a_stopping_worker_finishes_started_jobs_and_requeues_the_others,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_in_threads_it_is_as_in_the_event_loop(
    harness: Harness, test: Callable[[Harness], None]
) -> None:
    harness.broker.add_middleware(ByThread())
    harness.broker.emit_after("process_boot")  # starts Dramatiq's checks of time limits
    test(harness)


def test_a_stopping_worker_requeues_attempts_that_wait_for_a_thread(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.brokers.async_runner.MAX_THREADS", 2)
    harness.broker.async_runner._reset()
    harness.broker.add_middleware(ByThread())
    begun: list[int] = []
    may_end = threading.Event()

    async def act(number: int) -> None:
        begun.append(number)
        while not may_end.is_set():
            await asyncio.sleep(0.02)

    actor = harness.actor(act, in_flight=20)
    for number in range(20):
        actor.send(number)
    harness.start(threads=1)
    wait_until(lambda: len(begun) == 2 and harness.broker.async_runner.running() == 20)
    stopping = threading.Thread(target=harness.stop)
    stopping.start()
    # The others are taken back while the two attempts still run.
    wait_until(lambda: harness.broker.async_runner.running() == 2)
    may_end.set()
    stopping.join(60)
    assert not stopping.is_alive()
    assert len(begun) == 2
    # RabbitMQ counts requeued messages a moment later.
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == 18)
    harness.start(threads=1)
    wait_until(lambda: len(begun) == 20)
    wait_until(harness.is_empty)
    assert sorted(begun) == list(range(20))


@pytest.mark.parametrize("is_notified", [True, False])
def test_the_stop_of_a_worker_interrupts_attempts_in_threads(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, is_notified: bool
) -> None:
    harness.broker.add_middleware(ByThread())
    in_the_loop.test_a_stopping_worker_cancels_and_requeues_slow_jobs(
        harness, monkeypatch, is_notified
    )


def test_hooks_after_a_refused_follow_up_message_run_in_the_context_of_the_thread(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    number: ContextVar[str] = ContextVar("number", default="none")
    put, seen = harness.broker._put, list[tuple[str, str]]()
    errors = [BrokerUnavailable("refused") for _ in range(2)]  # at once, and when it is repeated

    class Sets(ByThread):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            message.token = number.set(message.actor_name)

        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            seen.append((message.actor_name, number.get()))
            number.reset(message.token)

    def refuse_twice(envelopes: Any, **options: Any) -> None:
        if errors and envelopes[0].message.actor_name == "told":
            raise errors.pop()
        put(envelopes, **options)

    monkeypatch.setattr(harness.broker, "_put", refuse_twice)
    harness.broker.add_middleware(Sets(), before=Callbacks)
    harness.actor(lambda *_: None, actor_name="told")
    harness.actor(sleep, in_flight=2, on_success="told").send(0)
    harness.start()
    wait_until(lambda: len(seen) == 2)
    wait_until(harness.is_empty)
    assert (sorted(seen), errors) == ([("sleep", "sleep"), ("told", "told")], [])


def test_one_line_says_why_the_jobs_of_an_actor_run_in_threads(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    threads: list[str] = []

    class Notes(ByThread):
        def before_process_message(self, _broker: Any, _message: Any) -> None:
            threads.append(threading.current_thread().name)

    caplog.set_level(logging.INFO, "formrelay.brokers")
    harness.broker.add_middleware(Notes())
    actor = harness.actor(sleep, in_flight=2)
    for _ in range(3):
        actor.send(0.01)
    harness.start()
    wait_until(lambda: len(threads) == 3)
    assert {name.partition("_")[0] for name in threads} == {"formrelay-attempt"}
    lines = [record for record in caplog.records if "run in threads" in record.message]
    assert [vars(line)["reason"] for line in lines] == ["the middleware Notes works by thread"]


def test_attempts_run_in_the_event_loop_if_nothing_needs_a_thread(harness: Harness) -> None:
    threads: list[str] = []

    async def act() -> None:
        threads.append(threading.current_thread().name)

    class Notes(Middleware):
        def before_process_message(self, _broker: Any, _message: Any) -> None:
            threads.append(threading.current_thread().name)

    harness.broker.add_middleware(Notes())
    harness.actor(act, in_flight=2).send()
    harness.start()
    wait_until(lambda: len(threads) == 2)
    assert threads == ["formrelay-loop"] * 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"in_flight": 2}, "expected an async def function with in_flight"),
        ({"in_flight_total": 2}, "expected in_flight as well as in_flight_total"),
    ],
)
def test_in_flight_of_a_plain_function_is_refused(
    harness: Harness, options: dict[str, int], error: str
) -> None:
    with pytest.raises(ConfigError, match=error):
        harness.actor(print, **options)


def test_a_total_below_in_flight_is_refused(harness: Harness) -> None:
    with pytest.raises(ConfigError, match="to be at least in_flight"):
        harness.actor(sleep, in_flight=3, in_flight_total=2)
