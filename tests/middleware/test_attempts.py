"""Each attempt is one log line, and no log line contains a payload value."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware import SkipMessage

from formrelay.core.errors import InvalidJob, NotNow, PartsFailed, SinkPermanent, SinkTransient
from formrelay.core.outcomes import Defer
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.middleware.delivery import Batch, Delivery
from tests.middleware.lines import Lines
from tests.support.harness import Harness
from tests.support.waiting import wait_until

SECRET = "SECRET-VALUE"
PLACES = {"log_exceptions": "places"}
AT_ONCE = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(0),)))
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
METADATA = {
    "formId": "form-1",
    "submissionId": "sub-1",
    "traceparent": TRACEPARENT,
    "note": SECRET,
    "version": 1,
}


def work_off(harness: Harness) -> None:
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()


def raiser(error: BaseException | None, *, once: bool = False) -> Callable[..., None]:
    errors = [error]

    def act(payload: Any, metadata: Any = None) -> None:
        found = errors.pop() if once and errors else (None if once else error)
        if found is not None:
            raise found

    return act


FIELDS = {
    "time",
    "level",
    "logger",
    "msg",
    "worker",
    "actor",
    "queue",
    "jobId",
    "attempt",
    "duration",
    "outcome",
    "formId",
    "submissionId",
    "traceparent",
}
FAILED = {"errorType", "errorMessage", "errorPlaces"}


@pytest.mark.parametrize(
    ("error", "levels", "outcomes", "more"),
    [
        (None, ["INFO"], ["done"], set()),
        (ValueError(SECRET), ["WARNING", "ERROR"], ["retry", "dead"], FAILED),
        (SinkTransient("busy", code=503), ["WARNING", "ERROR"], ["retry", "dead"], FAILED),
        (SinkPermanent("no", code=400), ["ERROR"], ["dead"], FAILED),
        (InvalidJob("no"), ["ERROR"], ["dead"], FAILED),
        (KeyError(SECRET), ["WARNING", "ERROR"], ["retry", "dead"], FAILED),
        (SystemExit(SECRET), ["WARNING", "ERROR"], ["retry", "dead"], FAILED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_attempt_is_one_line_with_everything_but_the_payload(
    harness: Harness,
    lines: Lines,
    error: BaseException | None,
    levels: list[str],
    outcomes: list[str],
    more: set[str],
) -> None:
    actor = harness.actor(raiser(error), actor_name="act", policy=AT_ONCE, **PLACES)
    sent = actor.send({"answer": SECRET}, metadata=METADATA)
    work_off(harness)
    attempts = lines.attempts()
    assert [line["level"] for line in attempts] == levels
    assert [line["outcome"] for line in attempts] == outcomes
    assert [line["attempt"] for line in attempts] == list(range(1, len(levels) + 1))
    for line in attempts:
        extra = {"retry": {"retryInSeconds"}, "dead": {"reason"}, "done": set[str]()}
        assert set(line) == FIELDS | more | extra[line["outcome"]]
        assert line["logger"] == "formrelay.workers.attempts"
        assert (line["actor"], line["queue"]) == ("act", harness.queue)
        assert line["jobId"] == sent.message_id
        assert (line["formId"], line["submissionId"]) == ("form-1", "sub-1")
        assert 0 <= line["duration"] < 5000
    # Dramatiq's own lines about a failure are suppressed.
    assert "Failed to process" not in lines.text
    # In no line: not in Dramatiq's, not at DEBUG, not in a traceback.
    assert SECRET not in lines.text


def test_the_repr_of_a_delivery_omits_its_arguments() -> None:
    one = Delivery(Message("q", "act", (SECRET,), {"payload": SECRET}, {}, "id-1", 1), "tag")
    for text in (str(one), repr(one), f"{one}", repr([one]), str(Batch.of([one]))):
        assert SECRET not in text
    assert str(one) == repr(one) == "act(id-1)"


def test_a_deferral_logs_its_reason_and_wait(harness: Harness, lines: Lines) -> None:
    error = NotNow("the endpoint is busy", after=timedelta(milliseconds=50))
    harness.actor(raiser(error, once=True), actor_name="act", policy=AT_ONCE).send(SECRET)
    work_off(harness)
    first, second = lines.attempts()
    assert (first["level"], first["outcome"], first["retryInSeconds"]) == ("INFO", "defer", 0.05)
    assert first["errorMessage"] == "the endpoint is busy"
    assert (second["outcome"], second["attempt"]) == ("done", 1)
    assert SECRET not in lines.text


def test_a_line_in_a_job_names_the_job(harness: Harness, lines: Lines) -> None:
    mine = logging.getLogger("mine")

    def act() -> None:
        mine.info("inside", extra={"queue": "my own"})
        mine.info("about another", extra={"jobId": "another"})

    mine.info("outside")
    sent = harness.actor(act, actor_name="act").send()
    work_off(harness)
    mine.info("outside")
    (inside,), (about,) = lines.of("inside"), lines.of("about another")
    assert (inside["jobId"], inside["actor"], inside["queue"]) == (sent.message_id, "act", "my own")
    assert (about["jobId"], about["actor"]) == ("another", "act")
    assert sent.message_id not in {line.get("jobId") for line in lines.of("outside")}


def test_dramatiq_warns_of_skipped_messages_but_not_of_deferred_messages(
    harness: Harness, lines: Lines
) -> None:
    class Skips(dramatiq.Middleware):
        deferrals_left = 1

        def before_process_message(self, broker: Any, message: Any) -> None:
            if message.args[0] == "defer" and self.deferrals_left:
                self.deferrals_left = 0
                message.outcome = Defer(timedelta(milliseconds=10), "busy")
                raise SkipMessage
            if message.args[0] == "skip":
                raise SkipMessage

    harness.broker.add_middleware(Skips())
    actor = harness.actor(raiser(None), actor_name="act")
    ids = {how: actor.send(how).message_id for how in ("skip", "defer")}
    work_off(harness)
    assert sorted(line["outcome"] for line in lines.attempts()) == ["defer", "done", "done"]
    assert f"Message act({ids['skip']}) was skipped." in lines.text
    assert f"Message act({ids['defer']}) was skipped." not in lines.text


def test_the_line_of_a_dead_letter_has_the_reason_and_our_message(
    harness: Harness, lines: Lines
) -> None:
    error = SinkPermanent("the receiver answered 410", code=410)
    harness.actor(raiser(error), actor_name="act").send(SECRET)
    work_off(harness)
    (line,) = lines.attempts()
    assert line["reason"] == "permanent"
    assert line["errorType"] == "formrelay.core.errors.SinkPermanent"
    assert line["errorMessage"] == "the receiver answered 410"


@pytest.mark.parametrize(
    "metadata",
    [None, SECRET, [SECRET], {}, {"formId": [SECRET], "submissionId": {"a": SECRET}}, 5],
    ids=repr,
)
def test_metadata_of_unexpected_types_is_omitted(
    harness: Harness, lines: Lines, metadata: Any
) -> None:
    harness.actor(raiser(None), actor_name="act").send(SECRET, metadata=metadata)
    work_off(harness)
    (line,) = lines.attempts()
    assert not {"formId", "submissionId", "traceparent"} & set(line)
    assert SECRET not in lines.text


def test_no_message_of_chained_exceptions_is_logged(harness: Harness, lines: Lines) -> None:
    def act(payload: Any) -> None:
        try:
            raise RuntimeError(SECRET)
        except RuntimeError as error:
            raise ValueError(SECRET) from error

    harness.actor(act, actor_name="act", policy=AT_ONCE, **PLACES).send(SECRET)
    work_off(harness)
    assert len(lines.attempts()) == 2
    assert SECRET not in lines.text
    assert SECRET not in repr([letter.failure for letter in harness.dead()])


def test_messages_refused_by_dramatiq_are_logged_without_arguments(
    harness: Harness, lines: Lines
) -> None:
    """Dramatiq's worker logs unknown actors and skipped messages itself."""
    actor = harness.actor(raiser(None), actor_name="act", max_age=1000)
    harness.broker.enqueue(actor.message(SECRET).copy(actor_name="stranger"))
    old = actor.message(SECRET)
    harness.broker.enqueue(Message(**{**old.asdict(), "message_timestamp": 1}))
    work_off(harness)
    assert {letter.failure.reason.value for letter in harness.dead()} == {
        "unknown_actor",
        "expired",
    }
    (expired,) = (line for line in lines.attempts() if line["jobId"] == old.message_id)
    assert (expired["outcome"], expired["reason"]) == ("dead", "expired")
    assert SECRET not in lines.text


def test_undecodable_messages_are_logged_without_their_bytes(
    harness: Harness, lines: Lines
) -> None:
    harness.actor(raiser(None), actor_name="act")
    harness.inject(b"\xff" + SECRET.encode())
    work_off(harness)
    assert "quarantined" in lines.text
    assert SECRET not in lines.text


def test_errors_of_middleware_are_logged_without_arguments(harness: Harness, lines: Lines) -> None:
    class Broken(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise ValueError(str(message.kwargs) + SECRET)

    harness.broker.add_middleware(Broken())
    harness.actor(raiser(None), actor_name="act", **PLACES).send(payload=SECRET)
    work_off(harness)
    assert "Unexpected failure" in lines.text
    assert len(lines.attempts()) == 1
    assert SECRET not in lines.text


def batch_actor(harness: Harness, failures: dict[int, BaseException]) -> dramatiq.Actor[..., Any]:
    def collect(batch: list[dict[str, Any]]) -> None:
        if failures:
            raise PartsFailed(failures)

    return harness.actor(
        collect,
        actor_name="act",
        policy=AT_ONCE.but(max_attempts=1),
        batch_size=3,
        batch_wait=timedelta(seconds=5),
        **PLACES,
    )


@pytest.mark.parametrize(
    ("failures", "failed"),
    [({}, None), ({1: SinkPermanent("no")}, 1), ({0: ValueError(SECRET), 2: KeyError(SECRET)}, 2)],
    ids=["none", "one", "two"],
)
def test_a_batch_is_one_line_with_the_counts_of_its_parts(
    harness: Harness, lines: Lines, failures: dict[int, BaseException], failed: int | None
) -> None:
    actor = batch_actor(harness, failures)
    sent = [actor.send(payload=SECRET, metadata=METADATA).message_id for _ in range(3)]
    work_off(harness)
    (line,) = lines.attempts()
    assert line["parts"] == 3
    assert sorted(line["partIds"]) == sorted(sent)
    assert line.get("partsFailed") == failed
    # The line has the outcome of the worst part, so that no dead letter is logged as a success.
    assert (line["outcome"], line["level"]) == (("dead", "ERROR") if failed else ("done", "INFO"))
    dead = {letter.id for letter in harness.dead()}
    assert dead == set(line.get("failedIds", ()))
    assert len(dead) == (failed or 0)
    assert SECRET not in lines.text


def test_a_batch_with_a_deferred_part_is_not_logged_as_skipped(
    harness: Harness, lines: Lines
) -> None:
    failures: dict[int, BaseException] = {1: NotNow(after=timedelta(milliseconds=50))}
    actor = batch_actor(harness, failures)
    for _ in range(3):
        actor.send(payload=SECRET)
    harness.start()
    wait_until(lambda: lines.attempts())
    failures.clear()
    harness.stop()
    line = lines.attempts()[0]
    assert (line["outcome"], "isSkipped" in line) == ("defer", False)
    assert SECRET not in lines.text


@pytest.mark.parametrize(
    ("level", "outcomes"), [("WARNING", ["retry", "dead"]), ("ERROR", ["dead"])]
)
def test_failures_are_logged_at_a_level_above_info(
    harness: Harness, lines: Lines, level: str, outcomes: list[str]
) -> None:
    logging.getLogger().setLevel(level)
    harness.actor(raiser(ValueError()), actor_name="act", policy=AT_ONCE).send(1)
    work_off(harness)
    assert [line["outcome"] for line in lines.attempts()] == outcomes
