"""Hooks and options of Dramatiq: each behaves as with Dramatiq's brokers, or is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Middleware,
    Pipelines,
    Retries,
    SkipMessage,
    TimeLimit,
)

from formrelay.brokers.base import RelayBroker
from formrelay.core.errors import ConfigError, InvalidJob, InvalidPolicy, NotNow, PartsFailed
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy
from formrelay.state.idempotency import once
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SOON = timedelta(milliseconds=10)
QUICK = {"min_backoff": 1, "max_backoff": 20}


class Heard(Middleware):
    """Notes the hooks after an attempt, each with the name of its error."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    def after_process_message(
        self, _broker: Any, _message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        self.hooks.append(type(exception).__name__ if exception else "done")

    def after_skip_message(self, _broker: Any, _message: Any) -> None:
        self.hooks.append("skipped")


class Failing:
    """An actor that raises its errors in turn, and then nothing."""

    def __init__(self, *errors: BaseException, always: BaseException | None = None) -> None:
        self.times: list[float] = []
        self._errors, self._always = list(errors), always

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        error = self._errors.pop(0) if self._errors else self._always
        if error is not None:
            raise error


@pytest.fixture
def told(harness: Harness) -> list[tuple[Any, ...]]:
    """The arguments of each message to the actor ``told``."""
    calls: list[tuple[Any, ...]] = []
    harness.actor(lambda *args: calls.append(args), actor_name="told")
    return calls


def work_off(harness: Harness, is_over: Callable[[], Any]) -> None:
    harness.start()
    wait_until(is_over)
    wait_until(harness.is_empty)
    harness.stop()


# -- an attempt that is deferred ------------------------------------------------------------


def test_a_deferral_is_a_skip_and_sends_no_on_failure(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    heard = Heard()
    harness.broker.add_middleware(heard)
    act = Failing(NotNow(after=SOON), NotNow(after=SOON))
    harness.actor(act, actor_name="act", on_failure="told").send()
    work_off(harness, lambda: "done" in heard.hooks)
    assert heard.hooks == ["skipped", "skipped", "done"]
    assert told == []


def test_a_deferral_of_an_async_actor_is_a_skip(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    heard = Heard()
    harness.broker.add_middleware(heard)
    errors = [NotNow(after=SOON)]

    async def act() -> None:
        if errors:
            raise errors.pop()

    harness.actor(act, in_flight=2, on_failure="told").send()
    work_off(harness, lambda: "done" in heard.hooks)
    assert heard.hooks == ["skipped", "done"]
    assert told == []


def test_a_batch_with_deferred_parts_only_is_a_skip(harness: Harness) -> None:
    heard = Heard()
    harness.broker.add_middleware(heard)
    errors: list[BaseException] = [PartsFailed({1: NotNow(after=SOON)})]

    def act(batch: list[Any]) -> None:
        if errors:
            raise errors.pop()

    actor = harness.actor(act, batch_size=2, batch_wait=timedelta(seconds=2))
    actor.send(), actor.send()
    work_off(harness, lambda: "done" in heard.hooks)
    assert heard.hooks == ["skipped", "done"]


# -- the options of Retries -----------------------------------------------------------------


def test_options_of_a_message_count_before_those_of_its_actor(harness: Harness) -> None:
    act = Failing(always=ValueError())
    actor = harness.actor(act, actor_name="act", max_retries=0, min_backoff=60_000)
    actor.send_with_options(max_retries=2, **QUICK)
    work_off(harness, harness.dead)
    assert len(act.times) == 3
    (letter,) = harness.dead()
    assert (letter.failure.reason, letter.failure.attempt) == (Reason.ATTEMPTS_EXHAUSTED, 3)


def test_options_of_a_message_change_a_policy(harness: Harness) -> None:
    act = Failing(always=ValueError())
    actor = harness.actor(act, actor_name="act", policy=RetryPolicy(max_attempts=9))
    actor.send_with_options(max_retries=1, **QUICK)
    work_off(harness, harness.dead)
    assert len(act.times) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_retries": "3"}, "max_retries to be a whole number"),
        ({"min_backoff": -1}, "min_backoff to be milliseconds"),
        ({"throws": ValueError}, "throws on the actor"),
        ({"retry_when": print}, "retry_when on the actor"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_message_is_refused_when_it_is_sent(
    harness: Harness, options: dict[str, Any], said: str
) -> None:
    actor = harness.actor(Failing(), actor_name="act")
    with pytest.raises(InvalidJob, match=said):
        actor.send_with_options(**options)


def test_retry_waits_for_its_delay_alone(harness: Harness) -> None:
    act = Failing(dramatiq.Retry(delay=100))
    harness.actor(act, actor_name="act", min_backoff=60_000).send()
    work_off(harness, lambda: len(act.times) == 2)
    assert 0.1 <= act.times[1] - act.times[0] < 10


def test_retry_when_and_throws_see_the_error_that_was_raised(harness: Harness) -> None:
    seen: list[type[BaseException]] = []

    def retry_when(_retries: int, error: BaseException) -> bool:
        seen.append(type(error))
        return len(seen) < 3

    act = Failing(dramatiq.Retry(delay=1), RateLimitExceeded("x"), always=ValueError())
    harness.actor(act, actor_name="act", retry_when=retry_when, **QUICK).send()
    limited = Failing(always=RateLimitExceeded("x"))
    harness.actor(limited, actor_name="limited", throws=RateLimitExceeded).send()
    work_off(harness, lambda: len(harness.dead()) == 2)
    assert seen == [dramatiq.Retry, RateLimitExceeded, ValueError]
    assert len(limited.times) == 1
    assert {letter.failure.reason for letter in harness.dead()} == {Reason.NOT_RETRIED}


def test_a_rate_limit_uses_attempts(harness: Harness) -> None:
    act = Failing(always=RateLimitExceeded("x"))
    harness.actor(act, actor_name="act", max_retries=2, **QUICK).send()
    work_off(harness, harness.dead)
    assert len(act.times) == 3


def test_on_retry_exhausted_gets_the_message_and_the_counts(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    by_actor = harness.actor(
        Failing(always=ValueError()),
        actor_name="by_actor",
        max_retries=1,
        on_retry_exhausted="told",
        **QUICK,
    )
    by_message = harness.actor(Failing(always=ValueError()), actor_name="by_message")
    thrown = harness.actor(
        Failing(always=KeyError()), actor_name="thrown", throws=KeyError, on_retry_exhausted="told"
    )
    by_actor.send()
    by_message.send_with_options(max_retries=0, on_retry_exhausted="told")
    thrown.send()
    work_off(harness, lambda: len(told) == 2 and len(harness.dead()) == 3)
    found = {
        message["actor_name"]: (message["options"]["retries"], about) for message, about in told
    }
    assert found == {
        "by_actor": (2, {"retries": 1, "max_retries": 1}),
        "by_message": (1, {"retries": 0, "max_retries": 0}),
    }


def test_callbacks_see_retries_traceback_and_time_of_a_failure(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    requeued: list[int | None] = []

    def act() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        requeued.append(message.options.get("requeue_timestamp"))
        raise ValueError("why")

    before = int(time.time() * 1000)
    harness.actor(act, max_retries=1, on_failure="told", **QUICK).send()
    work_off(harness, lambda: len(told) == 2)
    first, second = (message["options"] for message, _ in told)
    assert (first["retries"], second["retries"]) == (1, 2)
    assert first["traceback"].rstrip().endswith("ValueError: why")
    assert before <= first["requeue_timestamp"] <= second["requeue_timestamp"]
    assert requeued[0] is None
    assert first["requeue_timestamp"] <= (requeued[1] or 0) <= second["requeue_timestamp"]
    assert told[0][1] == {"type": "ValueError", "message": "why"}


# -- middleware that the program adds -------------------------------------------------------


def test_the_retries_of_dramatiq_give_their_values_to_ours(harness: Harness) -> None:
    act, own = Failing(always=ValueError()), Failing(always=ValueError())
    before = harness.actor(act, actor_name="act")
    harness.broker.add_middleware(Retries(max_retries=3, min_backoff=1, max_backoff=20))
    after = harness.actor(own, actor_name="own", max_retries=1)
    before.send(), after.send()
    work_off(harness, lambda: len(harness.dead()) == 2)
    assert (len(act.times), len(own.times)) == (4, 2)
    assert harness.broker.dead_letters(harness.queue)
    assert sum(isinstance(each, Retries) for each in harness.broker.middleware) == 1


def test_a_wrong_value_of_retries_is_refused(harness: Harness) -> None:
    actor = harness.actor(Failing(), actor_name="act")
    with pytest.raises(InvalidPolicy, match="max_retries to be a whole number"):
        harness.broker.add_middleware(Retries(max_retries="3"))  # type: ignore[arg-type]
    assert actor.options["policy"].max_attempts == 3  # as before


def test_default_middleware_that_is_added_again_takes_the_place_of_the_first(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    order = [type(each) for each in harness.broker.middleware]
    for added in (Callbacks(), Pipelines(), AgeLimit(max_age=300_000), TimeLimit(time_limit=5_000)):
        harness.broker.add_middleware(added)
    assert [type(each) for each in harness.broker.middleware] == order
    late = harness.actor(Failing(), actor_name="late", on_success="told")
    late.send_with_options(max_age=3_600_000)
    expired = late.message()
    harness.broker.enqueue(expired.copy(message_timestamp=expired.message_timestamp - 310_000))
    harness.actor(Failing(), actor_name="act", on_success="told", max_age=3_600_000).send()
    work_off(harness, lambda: len(harness.dead()) == 1 and len(told) == 2)
    (letter,) = harness.dead()
    assert letter.failure.reason is Reason.EXPIRED


@pytest.mark.parametrize("name", [AgeLimit, TimeLimit, Callbacks, Pipelines, Retries])
def test_a_middleware_can_be_added_before_and_after_those_of_dramatiq(
    broker: RelayBroker, name: type[Middleware]
) -> None:
    first, second = Heard(), Heard()
    broker.add_middleware(first, before=name)
    broker.add_middleware(second, after=name)
    place = next(i for i, each in enumerate(broker.middleware) if isinstance(each, name))
    assert broker.middleware[place - 1] is first
    assert broker.middleware[place + 1] is second
    broker.close()


def test_middleware_can_be_given_when_the_broker_is_made(broker: RelayBroker) -> None:
    broker.close()
    heard = Heard()
    other = type(broker).__new__(type(broker))
    RelayBroker.__init__(other, broker.options, middleware=[Retries(max_retries=7), heard])
    assert other.middleware[-1] is heard
    assert other.outcomes.max_retries == 7


def test_a_hook_that_is_set_on_an_object_is_called(harness: Harness) -> None:
    heard, calls = Middleware(), []
    harness.broker.add_middleware(heard)
    actor = harness.actor(Failing(), actor_name="act")
    actor.send()
    work_off(harness, harness.is_empty)
    heard.after_ack = lambda _broker, message: calls.append(message.message_id)  # type: ignore[method-assign]
    sent = actor.send()
    work_off(harness, lambda: calls)
    assert calls == [sent.message_id]


def test_a_message_that_a_middleware_fails_is_dead_by_its_middleware(harness: Harness) -> None:
    class Refuses(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            message.fail()
            raise SkipMessage

    harness.broker.add_middleware(Refuses())
    act = Failing()
    harness.actor(act, actor_name="act", max_age=3_600_000).send()
    work_off(harness, harness.dead)
    (letter,) = harness.dead()
    assert (letter.failure.reason, act.times) == (Reason.MIDDLEWARE, [])


def test_a_broker_leaves_the_log_lines_of_other_brokers_alone(
    broker: RelayBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.close()
    text = "Failed to process message %s with unhandled exception."
    message = dramatiq.Message("q", "act", (), {}, {})
    logging.getLogger("dramatiq.worker.WorkerThread").error(text, dramatiq.MessageProxy(message))
    assert "Failed to process message" in caplog.text


# -- options that are refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "option", ["store_results", "group_completion_callbacks", "max_retries", "on_retry_exhausted"]
)
def test_a_batch_refuses_options_that_count_message_by_message(
    harness: Harness, option: str
) -> None:
    actor = harness.actor(print, batch_size=2, batch_wait=SOON)
    with pytest.raises(InvalidJob, match=f"expected no {option} on a message of 'print'"):
        actor.send_with_options(**{option: 1})


def test_a_key_that_cannot_be_made_fails_the_job(
    harness: Harness, told: list[tuple[Any, ...]]
) -> None:
    ran: list[str] = []
    keyed = once(lambda order: order["id"])
    actor = harness.actor(
        ran.append, actor_name="act", idempotency=keyed, max_retries=0, on_failure="told"
    )
    actor.send("not an order")
    work_off(harness, lambda: harness.dead() and told)
    (letter,) = harness.dead()
    assert (letter.failure.error, ran) == ("TypeError", [])


def test_an_idempotency_that_is_no_once_is_refused(harness: Harness) -> None:
    with pytest.raises(ConfigError, match=r"expected idempotency to be once\(key\), got 'id'"):
        harness.actor(print, idempotency="id")
