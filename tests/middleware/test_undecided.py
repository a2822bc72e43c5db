"""If an outcome cannot be decided, the attempt counts as failed and is logged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from formrelay.brokers.errors import BrokerUnavailable
from formrelay.core.errors import ConfigError, InvalidPolicy, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.outcomes import Outcome
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.middleware.delivery import Delivery
from formrelay.middleware.outcomes import Outcomes
from formrelay.state.idempotency import Once
from tests.middleware.lines import Lines
from tests.middleware.test_outcomes import Calls
from tests.support.harness import Harness
from tests.support.waiting import wait_until

AT_ONCE = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))


class BrokenBackoff:
    """A backoff that raises, or returns something else than a wait."""

    def __init__(self, wait: object) -> None:
        self._wait = wait

    def wait(self, attempt: int) -> Any:
        if isinstance(self._wait, Exception):
            raise self._wait
        return self._wait


class Mute(SinkTransient):
    """An error whose text raises, and without the attributes of sink errors."""

    def __init__(self) -> None:
        """Set nothing."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raises(error: BaseException, attempt: int) -> bool:
    raise RuntimeError("a bug in should_retry")


@pytest.mark.parametrize(
    ("policy", "error", "fault"),
    [
        (
            AT_ONCE.but(backoff=BrokenBackoff(5)),
            ValueError(),
            "expected the wait before attempt 2 to be a timedelta, got int",
        ),
        (AT_ONCE.but(backoff=BrokenBackoff(KeyError("x"))), ValueError(), "KeyError"),
        (AT_ONCE.but(should_retry=raises), ValueError(), "RuntimeError"),
        (AT_ONCE, Mute(), "AttributeError"),
    ],
    ids=["no timedelta", "backoff raises", "should_retry raises", "a bad exception"],
)
def test_an_undecided_attempt_counts_and_its_dead_letter_has_both_errors(
    harness: Harness, lines: Lines, policy: RetryPolicy, error: Exception, fault: str
) -> None:
    calls = Calls(always=error)
    harness.actor(calls, actor_name="act", policy=policy).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    harness.stop()
    assert len(calls) == letter.failure.attempt == 2
    assert letter.failure.error.endswith(type(error).__name__)
    told = [(line["outcome"], line["level"], line["attempt"]) for line in lines.attempts()]
    assert told == [("retry", "WARNING", 1), ("dead", "ERROR", 2)]
    first = lines.attempts()[0]
    assert first["reason"] == "undecided"
    assert f"the outcome could not be decided: {fault}" in first["errorMessage"]
    assert (
        len(
            lines.of(
                "the outcome of an attempt could not be decided: it counts as a failed attempt"
            )
        )
        >= 1
    )


def test_the_outcomes_of_a_batchs_parts_are_independent(harness: Harness) -> None:
    from formrelay.core.errors import PartsFailed, SinkPermanent

    def collect(batch: list[Any]) -> None:
        raise PartsFailed({0: ValueError(), 1: SinkPermanent("no")})

    actor = harness.actor(
        collect,
        policy=AT_ONCE.but(should_retry=raises, max_attempts=1),
        batch_size=3,
        batch_wait=timedelta(seconds=5),
    )
    for _ in range(3):
        actor.send()
    harness.start()
    letters = wait_until(lambda: len(harness.dead()) == 2 and harness.dead())
    assert {letter.failure.reason for letter in letters} == {
        Reason.PERMANENT,
        Reason.ATTEMPTS_EXHAUSTED,
    }
    wait_until(harness.is_empty)


@pytest.mark.parametrize("works", [True, False])
def test_an_attempt_without_an_outcome_counts_as_failed(
    harness: Harness, lines: Lines, works: bool
) -> None:
    harness.broker.middleware = [
        one for one in harness.broker.middleware if not isinstance(one, Outcomes)
    ]
    calls = Calls(always=None if works else ValueError())
    harness.actor(calls, actor_name="act").send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (len(calls), letter.failure.attempt) == (3, 3)
    assert letter.failure.reason is Reason.UNDECIDED
    assert "No middleware gave the attempt an outcome" in letter.failure.message
    assert letter.failure.error == (
        "formrelay.middleware.outcomes.NoOutcome" if works else "ValueError"
    )
    assert {(line["outcome"], line["level"]) for line in lines.attempts()} == {
        ("undecided", "ERROR")
    }


def test_a_hook_that_raises_system_exit_loses_neither_thread_nor_message(
    harness: Harness, lines: Lines
) -> None:
    class Exits(Middleware):
        def after_process_message(self, *_: Any, **__: Any) -> None:
            raise SystemExit

    calls = Calls()
    harness.broker.add_middleware(Exits())
    actor = harness.actor(calls, actor_name="act")
    for _ in range(2):
        actor.send()
    harness.start(threads=1)
    letters = wait_until(lambda: len(harness.dead()) == 2 and harness.dead())
    assert {letter.failure.error for letter in letters} == {"SystemExit"}
    assert len(calls) == 6
    # The last line is written after the last attempt is settled.
    text = "unexpected error in a worker thread; the thread continues"
    wait_until(lambda: len(lines.of(text)) == 6)


@pytest.mark.parametrize("hook", ["before_ack", "before_nack"])
def test_a_message_is_settled_though_the_hook_before_it_exits(harness: Harness, hook: str) -> None:
    class Exits(Middleware):
        pass

    def exits(*_: Any) -> None:
        raise SystemExit

    setattr(Exits, hook, exits)
    harness.broker.add_middleware(Exits())
    calls = Calls(always=None if hook == "before_ack" else ValueError())
    harness.actor(calls, actor_name="act", policy=AT_ONCE).send()
    harness.start(threads=1)
    wait_until(lambda: calls and harness.is_empty())
    assert bool(harness.dead()) is (hook == "before_nack")
    assert harness.worker is not None
    queue = harness.worker.work_queue
    wait_until(lambda: queue.unfinished_tasks == 0)  # Worker.join() waits for this


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_retries": "3"}, "max_retries to be a whole number, zero or more, or None, got '3'"),
        ({"max_retries": True}, "max_retries to be a whole number"),
        ({"max_retries": -1}, "max_retries to be a whole number"),
        ({"min_backoff": "15"}, "min_backoff to be milliseconds, zero or more, got '15'"),
        ({"min_backoff": timedelta(seconds=1)}, "min_backoff to be milliseconds"),
        ({"max_backoff": float("nan")}, "max_backoff to be milliseconds"),
        ({"max_backoff": -1}, "max_backoff to be milliseconds"),
        ({"max_backoff": float("inf")}, "max_backoff to be milliseconds"),
        ({"policy": AT_ONCE, "max_retries": 9}, "policy or max_retries, got both"),
        ({"retry_when": True}, "retry_when to be a function"),
        ({"throws": "ValueError"}, "throws to be an exception class or a tuple of them"),
        ({"throws": (ValueError, 5)}, "throws to be an exception class or a tuple of them"),
        ({"throws": "ValueError", "policy": AT_ONCE}, "throws to be an exception class"),
    ],
    ids=str,
)
def test_stock_options_of_a_wrong_type_are_refused_when_the_actor_is_declared(
    harness: Harness, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidPolicy, match=said) as caught:
        harness.actor(print, actor_name="act", **options)
    assert "act" in str(caught.value)


def test_a_message_skipped_by_a_middleware_is_logged_as_skipped(
    harness: Harness, lines: Lines
) -> None:
    class Skips(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            raise dramatiq.middleware.SkipMessage

    calls = Calls()
    harness.broker.add_middleware(Skips())
    harness.actor(calls, actor_name="act").send()
    harness.start()
    (line,) = wait_until(lines.attempts)
    assert (line["outcome"], line["isSkipped"], len(calls)) == ("done", True, 0)


def test_an_error_of_another_middleware_counts_as_an_attempt(
    harness: Harness,
) -> None:
    class Refuses(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            raise dramatiq.middleware.MiddlewareError("not allowed")

    calls = Calls()
    harness.broker.add_middleware(Refuses())
    harness.actor(calls, actor_name="act", policy=AT_ONCE).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (len(calls), letter.failure.attempt) == (0, 2)
    assert letter.failure.error.endswith("MiddlewareError")


def store_that_raises(error: Exception) -> Callable[[], Any]:
    def store() -> Any:
        raise error

    return store


def test_a_bug_in_an_idempotency_store_fails_the_attempt(harness: Harness, lines: Lines) -> None:
    calls = Calls()
    once = Once(lambda: "key", store_that_raises(TypeError()))
    harness.actor(calls, actor_name="act", policy=AT_ONCE, idempotency=once).send()
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert (len(calls), letter.failure.attempt, letter.failure.error) == (0, 2, "TypeError")
    assert [line["outcome"] for line in lines.attempts()] == ["retry", "dead"]


@pytest.mark.parametrize("error", [BrokerUnavailable(), ConfigError(), ConnectionError()])
def test_an_unavailable_idempotency_store_defers_the_job(
    harness: Harness, lines: Lines, error: Exception
) -> None:
    once = Once(lambda: "key", store_that_raises(error))
    harness.actor(Calls(), actor_name="act", policy=AT_ONCE, idempotency=once).send()
    harness.start()
    (line,) = wait_until(lines.attempts)
    assert (line["outcome"], line["attempt"]) == ("defer", 1)


def outcome_without_actor(harness: Harness, error: Exception | None) -> Outcome | None:
    message: dramatiq.Message[Any] = dramatiq.Message(harness.queue, "gone", (), {}, {})
    delivery = Delivery(message, "tag")
    Outcomes().after_process_message(harness.broker, delivery, exception=error)
    return delivery.outcome


def test_a_message_without_an_actor_is_undecided(harness: Harness) -> None:
    found: Any = outcome_without_actor(harness, ValueError())
    assert found.failure.reason is Reason.UNDECIDED
    assert "ActorNotFound" in found.failure.message
