"""Follow-up messages (pipelines, callbacks); a job whose follow-up cannot be sent fails."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from formrelay.brokers.errors import MessageTooLarge
from formrelay.core.failure import Reason
from tests.brokers.contract.test_awaiting import SOON, Reply, awaiting
from tests.support.harness import Harness
from tests.support.waiting import wait_until


def test_the_next_job_of_a_pipeline_and_on_success_are_sent(harness: Harness) -> None:
    seen: list[Any] = []
    add = harness.actor(lambda one, other: one + other, actor_name="add")
    harness.actor(lambda total: seen.append(total), actor_name="keep")
    harness.actor(lambda _message, result: seen.append([result]), actor_name="tell")
    first = add.message_with_options(args=(1, 2), on_success="tell")
    following = harness.broker.actors["keep"].message()
    dramatiq.pipeline([first, following], broker=harness.broker).run()
    harness.start()
    wait_until(lambda: len(seen) == 2)
    assert sorted(seen, key=str) == [3, [3]]
    wait_until(harness.is_empty)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("x" * 20_000, "Pipelines cannot send: expected a message of at most 10000 bytes"),
        (object(), "Pipelines cannot send: "),
    ],
    ids=["too large", "no JSON"],
)
def test_a_job_whose_next_message_cannot_be_sent_is_dead_lettered(
    harness: Harness, result: Any, said: str
) -> None:
    told: list[str] = []
    ran: list[int] = []

    def work() -> Any:
        ran.append(1)
        return result

    first = harness.actor(work).message_with_options(on_success="tell", on_failure="mourn")
    harness.actor(lambda *_: told.append("success"), actor_name="tell")
    harness.actor(lambda *_: told.append("failure"), actor_name="mourn")
    harness.actor(lambda _: None, actor_name="keep")
    following = harness.broker.actors["keep"].message()
    dramatiq.pipeline([first, following], broker=harness.broker).run()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.failure.reason is Reason.FOLLOW_UP
    assert letter.failure.message.startswith(said)
    wait_until(lambda: told == ["failure"])  # later hooks see a failed job
    wait_until(harness.is_empty)
    assert ran == [1]


@pytest.mark.parametrize("kind", ["thread", "async at once", "async"])
def test_a_job_whose_on_success_actor_is_unknown_is_dead_lettered(
    harness: Harness, kind: str
) -> None:
    async def work() -> None:
        if kind == "async":
            reply = Reply()
            threading.Timer(0.01, reply.give).start()
            await reply

    # As an option of the actor, which is not in the message.
    if kind == "thread":
        actor = harness.actor(lambda: None, actor_name="work", on_success="nobody")
    else:
        actor = awaiting(harness, work, on_success="nobody")
    actor.send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.failure.reason is Reason.FOLLOW_UP
    assert letter.failure.message == (
        "Callbacks cannot send: no actor is called 'nobody' in this worker"
    )
    wait_until(harness.is_empty)


def test_a_failed_job_whose_on_failure_cannot_be_sent_is_retried_and_keeps_its_own_error(
    harness: Harness,
) -> None:
    ran: list[int] = []

    def fail() -> None:
        ran.append(1)
        raise ValueError

    harness.actor(fail, on_failure="nobody", policy=SOON).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (len(ran), letter.failure.error) == (2, "ValueError")
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED


def test_a_message_that_another_middleware_cannot_send_fails_the_job(harness: Harness) -> None:
    class Audit(Middleware):
        def after_process_message(self, *_: Any, **__: Any) -> None:
            raise MessageTooLarge

    class Broken(Middleware):
        def after_process_message(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no message of anybody's")

    harness.broker.add_middleware(Broken())
    harness.broker.add_middleware(Audit())
    harness.actor(lambda: None, actor_name="work").send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.failure.message.startswith("Audit cannot send: The message is larger")
    wait_until(harness.is_empty)


def test_an_unknown_error_of_a_sending_hook_fails_the_attempt(harness: Harness) -> None:
    class FailsOnce(dramatiq.middleware.Pipelines):
        failures = 0

        def after_process_message(self, *_: Any, **__: Any) -> None:
            if not self.failures:
                self.failures += 1
                raise OSError("the store of a limiter is away")

    ran: list[int] = []
    harness.broker.add_middleware(FailsOnce())
    harness.actor(lambda: ran.append(1), actor_name="work", policy=SOON).send()
    harness.start()
    wait_until(lambda: len(ran) == 2)
    wait_until(harness.is_empty)
    assert harness.dead() == []


def test_hooks_that_may_send_do_not_run_in_the_event_loop(harness: Harness) -> None:
    threads: dict[str, str] = {}

    class Listener(Middleware):
        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            threads[message.actor_name] = threading.current_thread().name

    async def plain() -> None:
        await later()

    async def by_actor() -> None:
        await later()

    async def by_actor_at_once() -> None:
        """Return at once."""

    async def by_message() -> None:
        await later()

    async def later() -> None:
        reply = Reply()
        threading.Timer(0.01, reply.give).start()
        await reply

    harness.broker.add_middleware(Listener())
    harness.actor(lambda *_: None, actor_name="tell")
    awaiting(harness, plain).send()
    awaiting(harness, by_actor, on_success="tell").send()
    awaiting(harness, by_actor_at_once, on_failure="tell").send()
    awaiting(harness, by_message).send_with_options(on_failure="tell")
    harness.start(threads=1)
    wait_until(lambda: len(threads.keys() - {"tell"}) == 4)
    assert threads.pop("plain") == "formrelay-loop"
    assert "formrelay-loop" not in threads.values()
