"""Outcomes through a real worker, with the options of stock Dramatiq."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Shutdown, TimeLimitExceeded

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import NotNow, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Outcome, Retry
from formrelay.core.retry import LONGEST_WAIT, Exponential, RetryPolicy, Schedule
from formrelay.middleware.delivery import Batch, Delivery
from formrelay.middleware.outcomes import Outcomes
from formrelay.middleware.policies import policy_of
from tests.support.harness import Harness
from tests.support.waiting import wait_until

NOW = 1_769_851_800.0
MS = timedelta(milliseconds=1)
QUICK: dict[str, Any] = {"min_backoff": 1, "max_backoff": 20}


class StoppedClock:
    """A clock that always returns the same time."""

    def time(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class Calls:
    """An actor function that records each call, then raises the next error of a list."""

    def __init__(self, *errors: BaseException | None, always: BaseException | None = None) -> None:
        self.times: list[float] = []
        self._errors, self._always = list(errors), always

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        error = self._errors.pop(0) if self._errors else self._always
        if error is not None:
            raise error

    def __len__(self) -> int:
        return len(self.times)


def run(harness: Harness, calls: Calls, **options: Any) -> list[Any]:
    """Send a message and wait until it is settled for good; returns the dead letters."""
    harness.actor(calls, actor_name="act", **options).send()
    harness.start()
    wait_until(lambda: len(calls) and harness.is_empty())
    harness.stop()
    return harness.dead()


# -- the options of stock Dramatiq ---------------------------------------------------------


@pytest.mark.parametrize(("most", "attempts"), [(0, 1), (1, 2), (4, 5)])
def test_max_retries_counts_the_attempts_after_the_first(
    harness: Harness, most: int, attempts: int
) -> None:
    calls = Calls(always=ValueError())
    (letter,) = run(harness, calls, max_retries=most, **QUICK)
    assert len(calls) == attempts
    assert letter.failure.attempt == attempts
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED


def test_min_and_max_backoff_in_milliseconds_are_respected(harness: Harness) -> None:
    calls = Calls(*(ValueError() for _ in range(7)))
    assert run(harness, calls, max_retries=7, min_backoff=100, max_backoff=200) == []
    first, *others = (b - a for a, b in pairwise(calls.times))
    assert first >= 0.1
    assert min(others) >= 0.2
    assert others[-1] < 6.4  # 0.2 to 0.4 s, and without a maximum at least 6.4 s


def test_errors_listed_in_throws_are_not_retried(harness: Harness) -> None:
    calls = Calls(always=KeyError("x"))
    (letter,) = run(harness, calls, max_retries=5, throws=KeyError, **QUICK)
    assert len(calls) == 1
    assert (letter.failure.error, letter.failure.attempt) == ("KeyError", 1)


def test_errors_not_listed_in_throws_are_retried(harness: Harness) -> None:
    calls = Calls(ValueError(), ValueError())
    assert run(harness, calls, max_retries=5, throws=(KeyError, OSError), **QUICK) == []
    assert len(calls) == 3


def test_retry_when_gets_stock_arguments_and_replaces_max_retries(
    harness: Harness,
) -> None:
    seen: list[tuple[int, str]] = []

    def retry_when(retries: int, error: BaseException) -> bool:
        seen.append((retries, type(error).__name__))
        return retries < 4

    calls = Calls(always=ValueError())
    (letter,) = run(harness, calls, max_retries=1, retry_when=retry_when, **QUICK)
    assert seen == [(retries, "ValueError") for retries in range(5)]
    assert letter.failure.attempt == 5


def test_a_retry_when_that_fails_loses_nothing(harness: Harness) -> None:
    def broken(retries: int, error: BaseException) -> bool:
        raise RuntimeError("a bug in an actor's own decision")

    calls = Calls(ValueError(), ValueError())
    assert run(harness, calls, retry_when=broken, **QUICK) == []
    assert len(calls) == 3


def test_a_should_retry_that_always_fails_ends_in_the_dead_letters(harness: Harness) -> None:
    def broken(error: BaseException, attempt: int) -> bool:
        raise RuntimeError

    policy = RetryPolicy(max_attempts=2, backoff=Schedule((timedelta(0),)), should_retry=broken)
    calls = Calls(always=ValueError())
    (letter,) = run(harness, calls, policy=policy)
    assert (len(calls), letter.failure.error) == (2, "ValueError")


def test_the_delay_of_dramatiq_retry_is_respected(harness: Harness) -> None:
    calls = Calls(dramatiq.Retry("later", delay=300))
    assert run(harness, calls, max_retries=3, **QUICK) == []
    assert len(calls) == 2
    assert calls.times[1] - calls.times[0] >= 0.3


def test_dramatiq_retry_uses_attempts(harness: Harness) -> None:
    calls = Calls(always=dramatiq.Retry("later", delay=10))
    (letter,) = run(harness, calls, max_retries=2, **QUICK)
    assert len(calls) == 3
    assert letter.failure.error == "dramatiq.errors.Retry"


def test_a_message_older_than_max_age_is_dead_lettered_without_running(harness: Harness) -> None:
    calls = Calls()
    actor = harness.actor(calls, actor_name="act", max_age=60_000)
    old = actor.message()
    long_ago = Message(**{**old.asdict(), "message_timestamp": int(time.time() * 1000) - 61_000})
    harness.broker.enqueue(long_ago)
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.id == old.message_id
    assert letter.failure.reason is Reason.EXPIRED
    assert "older than its max_age" in letter.failure.message
    assert letter.failure.attempt == 0
    assert len(calls) == 0


def test_a_message_younger_than_max_age_runs(harness: Harness) -> None:
    calls = Calls()
    assert run(harness, calls, max_age=60_000) == []
    assert len(calls) == 1


def test_a_job_interrupted_by_shutdown_is_requeued_without_using_an_attempt(
    harness: Harness,
) -> None:
    started = threading.Event()
    ends: list[str] = []

    def long_work() -> None:
        started.set()
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                threading.Event().wait(0.01)  # the interrupt is raised between two bytecodes
        except Shutdown:
            ends.append("interrupted")
            raise

    harness.actor(long_work, actor_name="act", notify_shutdown=True, max_retries=0).send()
    harness.start()
    assert started.wait(60)
    harness.stop()
    assert ends == ["interrupted"]
    assert harness.dead() == []
    counts = harness.broker.counts(harness.queue)
    assert (counts.waiting or 0) + (counts.scheduled or 0) == 1
    assert counts.in_flight == 0


def test_an_actor_over_its_time_limit_is_retried_like_any_failure(harness: Harness) -> None:
    calls: list[int] = []

    def endless() -> None:
        calls.append(1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            threading.Event().wait(0.01)

    harness.actor(endless, actor_name="act", time_limit=100, max_retries=0).send()
    harness.broker.emit_after("process_boot")  # as Dramatiq's command line does
    harness.start()
    (letter,) = wait_until(harness.dead)
    assert letter.failure.error.endswith("TimeLimitExceeded")
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert calls == [1]


# -- the hooks without a worker: every end of an attempt -----------------------------------


@pytest.fixture
def broker(middleware_broker_url: str) -> RedisBroker:
    """A broker whose actors the hooks look up; its server is not used."""
    return RedisBroker(middleware_broker_url)


POLICY = RetryPolicy(max_attempts=3, jitter=0, backoff=Exponential(timedelta(seconds=1)))


def delivery(retries: int = 0, tag: str = "tag") -> Delivery:
    message: Message[Any] = Message("q", "act", (), {}, {"retries": retries}, "id", 0)
    return Delivery(message, tag)


def outcome_of(
    broker: RedisBroker, error: BaseException | None, *, retries: int = 0, **options: Any
) -> Outcome | None:
    dramatiq.actor(print, actor_name="act", broker=broker, queue_name="q", **options)
    one = delivery(retries)
    Outcomes(clock=StoppedClock()).after_process_message(broker, one, exception=error)
    return one.outcome


@pytest.mark.parametrize(
    ("error", "kind", "after"),
    [
        (None, type(DONE), None),
        (ValueError(), Retry, timedelta(seconds=1)),
        (Shutdown(), Defer, timedelta(seconds=2)),
        (RateLimitExceeded("busy"), Retry, timedelta(seconds=1)),
        (NotNow(after=timedelta(seconds=9)), Defer, timedelta(seconds=9)),
        (TimeLimitExceeded(), Retry, timedelta(seconds=1)),
        (dramatiq.Retry("later"), Retry, timedelta(seconds=1)),
        (dramatiq.Retry("later", delay=5000), Retry, timedelta(seconds=5)),
        (dramatiq.Retry("later", delay=0), Retry, timedelta(0)),
        (dramatiq.Retry("later", delay=-5000), Retry, timedelta(0)),
        (dramatiq.Retry("later", delay=172_800_000), Retry, timedelta(days=2)),
        (SinkTransient(retry_after=timedelta.max), Retry, LONGEST_WAIT),
        (SinkPermanent("no"), Dead, None),
        (KeyboardInterrupt(), Retry, timedelta(seconds=1)),
        (SystemExit(), Retry, timedelta(seconds=1)),
        (MemoryError(), Retry, timedelta(seconds=1)),
    ],
    ids=repr,
)
def test_the_end_of_an_attempt_has_one_outcome(
    broker: RedisBroker, error: BaseException | None, kind: type, after: timedelta | None
) -> None:
    outcome = outcome_of(broker, error, policy=POLICY)
    assert type(outcome) is kind
    assert getattr(outcome, "after", None) == after


def test_only_dead_messages_are_marked_as_failed_for_dramatiq(
    broker: RedisBroker,
) -> None:
    dramatiq.actor(print, actor_name="act", broker=broker, queue_name="q", policy=POLICY)
    for error, failed in ((SinkPermanent(), True), (ValueError(), False), (None, False)):
        one = delivery()
        Outcomes().after_process_message(broker, one, exception=error)
        assert one.failed is failed


def test_a_failure_has_the_time_of_the_clock_and_the_number_of_the_attempt(
    broker: RedisBroker,
) -> None:
    outcome = outcome_of(broker, ValueError(), retries=1, policy=POLICY)
    assert isinstance(outcome, Retry)
    assert (outcome.failure.at, outcome.failure.attempt) == ("2026-01-31T09:30:00.000Z", 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RetryPolicy()),
        ({"max_retries": 0}, RetryPolicy(max_attempts=1)),
        ({"max_retries": 7}, RetryPolicy(max_attempts=8)),
        ({"max_retries": None}, RetryPolicy(max_attempts=2**31)),
        (
            {"min_backoff": 15_000, "max_backoff": 600_000},
            RetryPolicy(backoff=Exponential(timedelta(seconds=15), timedelta(minutes=10))),
        ),
        (
            {"min_backoff": 5},
            RetryPolicy(backoff=Exponential(timedelta(milliseconds=5), timedelta(days=7))),
        ),
        (
            {"max_backoff": 500},
            RetryPolicy(backoff=Exponential(timedelta(seconds=1), timedelta(milliseconds=500))),
        ),
        ({"max_backoff": 10**30}, RetryPolicy(backoff=Exponential(cap=timedelta(days=7)))),
    ],
    ids=str,
)
def test_stock_options_become_a_policy(
    broker: RedisBroker, options: dict[str, Any], expected: RetryPolicy
) -> None:
    dramatiq.actor(print, actor_name="act", broker=broker, queue_name="q", **options)
    assert policy_of(broker, "act") == expected
    assert policy_of(broker, "act") is policy_of(broker, "act")


def batch(*retries: int, stored: bool = False) -> Batch:
    parts = [delivery(count, f"tag-{n}") for n, count in enumerate(retries)]
    whole = Batch.of(parts)
    if stored:
        whole.tag = "tag"
    return whole


def after(broker: RedisBroker, one: Delivery, error: BaseException | None) -> Delivery:
    dramatiq.actor(print, actor_name="act", broker=broker, queue_name="q", policy=POLICY)
    Outcomes(clock=StoppedClock()).after_process_message(broker, one, exception=error)
    return one


def test_the_parts_of_a_batch_get_outcomes_of_their_own(broker: RedisBroker) -> None:
    failures: dict[int, BaseException] = {
        1: SinkPermanent("no"),
        2: ValueError(),
        3: NotNow(after=timedelta(seconds=9)),
        4: ValueError(),
    }
    one = after(broker, whole := batch(0, 0, 0, 0, 2), PartsFailed(failures))
    assert one.outcome == DONE
    assert not one.failed
    assert whole.part_outcomes is not None
    kinds = [type(outcome) for outcome in whole.part_outcomes]
    assert kinds == [type(DONE), Dead, Retry, Defer, Dead]  # the last part had an attempt before
    assert whole.part_outcomes[4].failure.attempt == 3  # type: ignore[union-attr]


def test_parts_of_a_stored_batch_have_the_attempts_of_the_batch(broker: RedisBroker) -> None:
    whole = batch(0, 2, stored=True)
    assert whole.attempt == 3
    after(broker, whole, PartsFailed({0: ValueError()}))
    assert [type(outcome) for outcome in whole.part_outcomes or []] == [Dead, type(DONE)]


@pytest.mark.parametrize(
    ("error", "kind"), [(None, type(DONE)), (ValueError(), Retry), (SinkPermanent(), Dead)]
)
def test_a_batch_that_fails_as_a_whole_has_one_outcome(
    broker: RedisBroker, error: BaseException | None, kind: type
) -> None:
    one = after(broker, whole := batch(0, 0), error)
    assert type(one.outcome) is kind
    assert whole.part_outcomes is None
    assert one.failed is (kind is Dead)


def test_a_skipped_message_without_an_error_is_done(broker: RedisBroker) -> None:
    one = delivery()
    Outcomes().after_skip_message(broker, one)
    assert one.outcome == DONE


def test_a_skip_does_not_change_an_existing_outcome(broker: RedisBroker) -> None:
    one = delivery()
    one.outcome = Defer(timedelta(seconds=1), "broker away")
    one.fail()
    Outcomes().after_skip_message(broker, one)
    assert one.outcome == Defer(timedelta(seconds=1), "broker away")


def test_hooks_ignore_messages_of_other_brokers(broker: RedisBroker) -> None:
    stock = dramatiq.MessageProxy(delivery().message)
    middleware: list[Callable[..., None]] = [
        Outcomes().after_process_message,
        Outcomes().after_skip_message,
    ]
    for hook in middleware:
        hook(broker, stock)
    assert not stock.failed
