"""Each attempt has its own contextvars context, from its first hook to its last."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from dramatiq.middleware import CurrentMessage, Middleware

from tests.brokers.contract.test_awaiting import SOON, Reply, awaiting
from tests.support.harness import Harness
from tests.support.waiting import wait_until

WHOSE: ContextVar[str] = ContextVar("WHOSE")


class Hooks(Middleware):
    """Sets a variable in the first hook and records its value in all others."""

    def __init__(self) -> None:
        self.found_at_first: list[str | None] = []
        self.wrong: list[tuple[str, str]] = []
        self.over: list[str] = []

    def before_process_message(self, _broker: Any, message: Any) -> None:
        self.found_at_first.append(WHOSE.get(None))
        WHOSE.set(message.message_id)

    def _check(self, hook: str, message: Any) -> None:
        if WHOSE.get(None) != message.message_id:
            self.wrong.append((hook, message.message_id))

    def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
        self._check("after_process_message", message)

    def before_ack(self, _broker: Any, message: Any) -> None:
        self._check("before_ack", message)

    def before_nack(self, _broker: Any, message: Any) -> None:
        self._check("before_nack", message)

    def after_ack(self, _broker: Any, message: Any) -> None:
        self._check("after_ack", message)
        self.over.append(message.message_id)

    def after_nack(self, _broker: Any, message: Any) -> None:
        self._check("after_nack", message)
        self.over.append(message.message_id)


def hooks_of(harness: Harness) -> Hooks:
    hooks = Hooks()
    harness.broker.add_middleware(hooks)
    return hooks


def is_mine() -> bool:
    message = CurrentMessage.get_current_message()
    return message is not None and WHOSE.get() == message.message_id


def test_an_attempt_in_a_thread_sees_no_variable_of_the_previous_attempt(harness: Harness) -> None:
    hooks = hooks_of(harness)
    mine: list[bool] = []

    def work(fails: bool) -> None:
        mine.append(is_mine())
        if fails:
            raise ValueError

    actor = harness.actor(work, policy=SOON.but(max_attempts=1))
    for number in range(20):
        actor.send(number % 2 == 0)
    harness.start(threads=1)
    wait_until(lambda: len(hooks.over) == 20)
    assert hooks.found_at_first == [None] * 20
    assert hooks.wrong == []
    assert mine == [True] * 20


def test_concurrent_attempts_in_the_loop_see_no_variable_of_each_other(harness: Harness) -> None:
    hooks = hooks_of(harness)
    replies = [Reply() for _ in range(20)]
    mine: list[bool] = []

    async def wait(number: int) -> None:
        mine.append(is_mine())
        await replies[number]
        mine.append(is_mine())
        if number % 2:
            raise ValueError

    actor = awaiting(harness, wait, policy=SOON.but(max_attempts=1))
    for number in range(20):
        actor.send(number)
    harness.start(threads=1)
    for reply in replies:  # all have started before the first continues
        assert reply.is_awaited.wait(60)
    for reply in replies:
        reply.give()
    wait_until(lambda: len(hooks.over) == 20)
    assert hooks.found_at_first == [None] * 20
    assert hooks.wrong == []
    assert mine == [True] * 40  # Dramatiq's current message too, after each await


def test_an_attempt_keeps_its_context_in_the_thread_of_slow_hooks(harness: Harness) -> None:
    """Hooks that may send messages run in that thread; the coroutine runs in the loop."""
    hooks = hooks_of(harness)
    told: list[int] = []
    mine: list[bool] = []

    async def wait() -> None:
        mine.append(is_mine())
        for _ in range(3):
            reply = Reply()
            threading.Timer(0.001, reply.give).start()
            await reply
            mine.append(is_mine())

    harness.actor(lambda *_: told.append(1), actor_name="tell")
    actor = awaiting(harness, wait, on_success="tell")
    for _ in range(20):
        actor.send()
    harness.start(threads=1)
    wait_until(lambda: len(told) == 20)
    wait_until(harness.is_empty)
    assert set(hooks.found_at_first) == {None}
    assert hooks.wrong == []
    assert mine == [True] * 80


def test_an_attempt_in_a_thread_sees_variables_set_at_the_start_of_the_thread(
    harness: Harness,
) -> None:
    class Boot(Middleware):
        def after_worker_thread_boot(self, _broker: Any, _thread: Any) -> None:
            WHOSE.set("the thread's")

    seen: list[str] = []
    harness.broker.add_middleware(Boot())
    actor = harness.actor(lambda: seen.append(WHOSE.get()), actor_name="work")
    for _ in range(3):
        actor.send()
    harness.start(threads=1)
    wait_until(lambda: seen == ["the thread's"] * 3)
