"""settle: the operations for every outcome of every kind of delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers.envelope import decode, decode_batch, encode, encode_batch, is_frozen
from formrelay.brokers.settlement import (
    Settlement,
    Write,
    as_dead_letter,
    settled_tags,
    settlement_of,
)
from formrelay.core.errors import SinkTransient
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Outcome, Retry
from formrelay.middleware.delivery import Batch, Delivery

NOW = 1_700_000_000.0
S = timedelta(seconds=1)
FAILURE = Failure.of(
    SinkTransient("busy", code=503), reason=Reason.ATTEMPTS_EXHAUSTED, attempt=2, now=NOW
)
RETRY, DEFER, DEAD = Retry(30 * S, FAILURE), Defer(5 * S, "busy"), Dead(FAILURE)
IN_30_S, IN_5_S = 1_700_000_030_000, 1_700_000_005_000


def message(number: int = 0, **options: Any) -> Message[Any]:
    return Message("q", "act", (), {"number": number}, options, f"id-{number}", 1)


def single(**options: Any) -> Delivery:
    return Delivery(message(0, **options), "tag-0")


def fresh() -> Batch:
    """A batch of three messages fetched one by one; the second had an attempt before."""
    parts = [message(0), message(1, retries=4), message(2)]
    return Batch.of([Delivery(one, f"tag-{n}") for n, one in enumerate(parts)])


def stored() -> Batch:
    """The same batch stored as one message, as received from the broker."""
    frozen = encode_batch(fresh(), {"retries": 4}).copy(message_id="batch-1")
    return decode_batch(decode(encode(frozen), queue_name="q", job_types={}), "tag-batch")


def read(write: Write) -> Message[Any]:
    return decode(write.body, queue_name="q", job_types={})


def summary(settlement: Settlement) -> dict[str, Any]:
    """Tags that are done, and the tags and writes (id, due time) of each replacement."""
    return {
        "replace": [
            (list(one.tags), [(write.message_id, write.due) for write in one.writes])
            for one in settlement.replacements
        ],
        "done": settlement.done,
    }


def writes(settlement: Settlement) -> list[Write]:
    return [write for one in settlement.replacements for write in one.writes]


# -- a single message ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (DONE, {"replace": [], "done": ["tag-0"]}),
        (RETRY, {"replace": [(["tag-0"], [("id-0", IN_30_S)])], "done": []}),
        (DEFER, {"replace": [(["tag-0"], [("id-0", IN_5_S)])], "done": []}),
        (DEAD, {"replace": [(["tag-0"], [("id-0", None)])], "done": []}),
    ],
)
def test_a_message_is_settled_by_one_operation_on_itself(
    outcome: Outcome, expected: dict[str, Any]
) -> None:
    settlement = settlement_of(single(), outcome, NOW)
    assert summary(settlement) == expected
    assert list(settled_tags(settlement)) == ["tag-0"]
    # It keeps its id on the broker.
    assert all(write.keeps_id for write in writes(settlement))


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        (
            RETRY,
            {
                "mine": 1,
                "retries": 3,
                "requeue_timestamp": int(NOW * 1000),
                "failure": FAILURE.to_json(),
                "due_at": IN_30_S,
            },
        ),
        (DEFER, {"mine": 1, "retries": 2, "failure": "earlier", "due_at": IN_5_S}),
        (DEAD, {"mine": 1, "retries": 2, "failure": FAILURE.to_json()}),
    ],
)
def test_a_message_is_written_with_its_attempts_and_failure(
    outcome: Outcome, options: dict[str, Any]
) -> None:
    delivery = single(mine=1, retries=2, failure="earlier")
    settlement = settlement_of(delivery, outcome, NOW)
    (write,) = writes(settlement)
    found = read(write)
    (ended,) = found.options.pop("attempt_history")
    assert found == Message("q", "act", (), {"number": 0}, options, "id-0", 1)
    kind = {Retry: "retry", Defer: "defer", Dead: "dead"}[type(outcome)]
    assert (ended["outcome"], ended["at"], ended["message"]) == (kind, NOW, "busy")
    # The delivery is unchanged, because its consumer may have to settle it again.
    assert delivery.options == {"mine": 1, "retries": 2, "failure": "earlier"}


def test_a_retry_counts_an_attempt_and_a_deferral_does_not() -> None:
    for outcome, attempt in ((RETRY, 3), (DEFER, 2)):
        (write,) = writes(settlement_of(single(retries=1), outcome, NOW))
        assert Delivery(read(write), "tag").attempt == attempt


def test_a_deferred_message_that_was_redelivered_may_still_have_run() -> None:
    delivery = single(other=1)
    assert not Delivery(read(write_of(delivery)), "tag").is_redelivered
    delivery.is_redelivered = True
    again = Delivery(read(write_of(delivery)), "tag")
    assert again.is_redelivered
    assert Delivery(read(write_of(again)), "tag").is_redelivered


@pytest.mark.parametrize("make", [fresh, stored])
def test_a_deferred_batch_that_was_redelivered_may_still_have_run(make: Any) -> None:
    batch = make()
    batch.parts[1].is_redelivered = True
    frozen = decode_batch(read(write_of(batch)), "tag")
    assert [part.is_redelivered for part in frozen.parts] == [False, True, False]
    frozen.is_redelivered = True
    assert all(part.is_redelivered for part in decode_batch(read(write_of(frozen)), "t").parts)
    frozen.part_outcomes = [DEFER, DONE, DEFER]
    (replacement,) = settlement_of(frozen, DEFER, NOW).replacements
    assert all(Delivery(read(write), "tag").is_redelivered for write in replacement.writes)


def write_of(delivery: Delivery) -> Write:
    """The message that replaces a deferred delivery."""
    ((write,),) = [one.writes for one in settlement_of(delivery, DEFER, NOW).replacements]
    return write


@pytest.mark.parametrize("retries", ["x", -1, None, 1.5, []], ids=repr)
def test_an_invalid_attempt_count_starts_at_one(retries: Any) -> None:
    (write,) = writes(settlement_of(single(retries=retries), RETRY, NOW))
    assert read(write).options["retries"] == 1


# -- records of past attempts ---------------------------------------------------------------


def history(write: Write) -> list[tuple[int, str]]:
    """Number and outcome of the past attempts in a message."""
    return [(one["attempt"], one["outcome"]) for one in read(write).options["attempt_history"]]


def failure(attempt: int) -> Failure:
    return replace(FAILURE, attempt=attempt, at=f"2026-01-31T09:30:0{attempt}.000Z")


def test_a_message_keeps_a_record_of_each_attempt_until_its_dead_letter() -> None:
    outcomes = (Retry(S, failure(1)), DEFER, DEFER, Retry(S, failure(2)), Dead(failure(3)))
    delivery = single()
    for outcome in outcomes:
        delivery.took = 0.5
        (write,) = writes(settlement_of(delivery, outcome, NOW))
        delivery = Delivery(read(write), "tag-0")
    assert history(write) == [(1, "retry"), (2, "defer"), (2, "retry"), (3, "dead")]
    records = read(write).options["attempt_history"]
    assert [one["took"] for one in records] == [0.5] * 4
    assert [one.get("next_in") for one in records] == [1.0, 5.0, 1.0, None]
    assert records[1]["count"] == 2


def test_a_message_of_an_older_version_keeps_its_last_failure_as_a_record() -> None:
    delivery = single(retries=1, failure=failure(1).to_json())
    (write,) = writes(settlement_of(delivery, Retry(S, failure(2)), NOW))
    assert history(write) == [(1, "retry"), (2, "retry")]


def test_an_attempt_after_a_crash_says_that_the_message_was_redelivered() -> None:
    delivery = single()
    delivery.is_redelivered = True
    (write,) = writes(settlement_of(delivery, Retry(S, failure(1)), NOW))
    assert read(write).options["attempt_history"][0]["redelivered"] is True


def test_a_frozen_batch_has_records_of_its_own_which_its_parts_inherit() -> None:
    batch = fresh()
    batch.parts[1].options["attempt_history"] = [{"attempt": 1, "at": 1, "outcome": "retry"}]
    (write,) = writes(settlement_of(batch, Retry(S, failure(5)), NOW))
    assert history(write) == [(5, "retry")]
    frozen = decode_batch(read(write), "tag")
    assert frozen.parts[0].options == {}
    frozen.part_outcomes = [DONE, Retry(S, failure(6)), Dead(failure(6))]
    retried, dead = writes(settlement_of(frozen, DONE, NOW))
    assert history(retried) == [(1, "retry"), (5, "retry"), (6, "retry")]
    assert history(dead) == [(5, "retry"), (6, "dead")]


@pytest.mark.parametrize(("parts", "records"), [(300, 10), (3_000, 2), (6_000, 0)])
def test_the_parts_of_a_large_batch_keep_fewer_records(parts: int, records: int) -> None:
    batch = Batch.of([Delivery(message(number), number) for number in range(parts)])
    for attempt in range(1, 12):
        batch.message.options["retries"] = attempt
        (write,) = writes(settlement_of(batch, Retry(S, failure(attempt % 10)), NOW))
        batch = decode_batch(read(write), "tag")
    letters = writes(settlement_of(batch, Dead(failure(9)), NOW))
    kept = [
        len(read(letter).options.get("attempt_history", ())) for letter in letters[:: parts - 1]
    ]
    assert kept == [records, records]
    size = sum(len(encode(read(one))) - len(encode(without(one))) for one in letters)
    assert size < 1_100_000


def without(write: Write) -> Message[Any]:
    found = read(write)
    found.options.pop("attempt_history", None)
    return found


# -- a batch of messages fetched one by one ------------------------------------------------

ALL_REMOVED = ["tag-0", "tag-1", "tag-2"]


def test_a_finished_batch_removes_each_part() -> None:
    settlement = settlement_of(fresh(), DONE, NOW)
    assert summary(settlement) == {"replace": [], "done": ALL_REMOVED}


def test_a_dead_batch_dead_letters_each_part() -> None:
    settlement = settlement_of(fresh(), DEAD, NOW)
    parts = [([f"tag-{n}"], [(f"id-{n}", None)]) for n in range(3)]
    assert summary(settlement) == {"replace": parts, "done": []}
    assert [read(write).kwargs for write in writes(settlement)] == [{"number": n} for n in range(3)]
    assert not any(is_frozen(read(write)) for write in writes(settlement))


@pytest.mark.parametrize(("outcome", "due", "attempt"), [(RETRY, IN_30_S, 6), (DEFER, IN_5_S, 5)])
def test_a_retried_batch_is_frozen_and_its_parts_are_removed(
    outcome: Outcome, due: int, attempt: int
) -> None:
    batch = fresh()
    settlement = settlement_of(batch, outcome, NOW)
    assert settlement.done == []
    (replacement,) = settlement.replacements
    assert replacement.tags == ALL_REMOVED
    (write,) = replacement.writes
    assert (write.due, write.keeps_id) == (due, False)
    assert write.message_id.startswith("batch-")
    again = decode_batch(read(write), "tag")
    assert [part.message for part in again.parts] == [part.message for part in batch.parts]
    assert again.message_id == write.message_id
    # The highest number of attempts counts, or a batch could be retried for ever.
    assert again.attempt == attempt
    assert list(settled_tags(settlement)) == ALL_REMOVED


def test_two_frozen_batches_never_share_an_id() -> None:
    ids = {writes(settlement_of(fresh(), RETRY, NOW))[0].message_id for _ in range(20)}
    assert len(ids) == 20


def test_each_part_of_a_batch_is_settled_by_its_own_outcome() -> None:
    batch = fresh()
    batch.part_outcomes = [DONE, RETRY, DEAD]
    settlement = settlement_of(batch, DONE, NOW)
    # Separate operations: if another worker has taken over a part, the others are settled.
    assert summary(settlement) == {
        "replace": [(["tag-1"], [("id-1", IN_30_S)]), (["tag-2"], [("id-2", None)])],
        "done": ["tag-0"],
    }
    assert read(writes(settlement)[0]).options["retries"] == 5
    batch.part_outcomes = [DEFER, DEFER, DONE]
    assert summary(settlement_of(batch, DONE, NOW)) == {
        "replace": [(["tag-0"], [("id-0", IN_5_S)]), (["tag-1"], [("id-1", IN_5_S)])],
        "done": ["tag-2"],
    }


def test_outcomes_of_parts_override_that_of_the_batch() -> None:
    for whole in (RETRY, DEFER, DEAD):
        batch = fresh()
        batch.part_outcomes = [DONE, DONE, DONE]
        assert settlement_of(batch, whole, NOW).done == ALL_REMOVED


def test_a_missing_outcome_of_a_part_is_an_error() -> None:
    batch = fresh()
    batch.part_outcomes = [DONE, DONE]
    with pytest.raises(ValueError, match="zip"):
        settlement_of(batch, DONE, NOW)


# -- a batch that was stored as one message --------------------------------------------------


def test_a_finished_stored_batch_is_removed_as_one_message() -> None:
    assert summary(settlement_of(stored(), DONE, NOW)) == {
        "replace": [],
        "done": ["tag-batch"],
    }


@pytest.mark.parametrize(("outcome", "due", "attempt"), [(RETRY, IN_30_S, 6), (DEFER, IN_5_S, 5)])
def test_a_retried_stored_batch_replaces_itself(outcome: Outcome, due: int, attempt: int) -> None:
    batch = stored()
    settlement = settlement_of(batch, outcome, NOW)
    assert summary(settlement) == {
        "replace": [(["tag-batch"], [("batch-1", due)])],
        "done": [],
    }
    again = decode_batch(read(writes(settlement)[0]), "tag")
    assert [part.message for part in again.parts] == [part.message for part in batch.parts]
    assert again.attempt == attempt


def test_a_dead_stored_batch_is_dead_lettered_part_by_part_before_its_removal() -> None:
    settlement = settlement_of(stored(), DEAD, NOW)
    assert summary(settlement) == {
        "replace": [(["tag-batch"], [("id-0", None), ("id-1", None), ("id-2", None)])],
        "done": [],
    }
    assert [Failure.from_json(read(write).options["failure"]) for write in writes(settlement)] == [
        FAILURE
    ] * 3
    assert not any(write.keeps_id for write in writes(settlement))


def test_each_part_of_a_stored_batch_is_settled_by_its_own_outcome() -> None:
    batch = stored()
    batch.part_outcomes = [RETRY, DONE, DEAD]
    settlement = settlement_of(batch, DONE, NOW)
    assert summary(settlement) == {
        "replace": [(["tag-batch"], [("id-0", IN_30_S), ("id-2", None)])],
        "done": [],
    }
    assert list(settled_tags(settlement)) == ["tag-batch"]


def test_positional_arguments_of_a_part_survive_every_settlement() -> None:
    odd = Message("q", "act", ("positional",), {}, {}, "id-9", 1)
    batch = Batch.of([Delivery(odd, "tag-9")])
    (write,) = writes(settlement_of(batch, RETRY, NOW))
    again = decode_batch(read(write), "tag-batch")
    assert again.parts[0].message == odd
    (dead,) = writes(settlement_of(again, DEAD, NOW))
    assert read(dead).args == ("positional",)


# -- the settlement itself -------------------------------------------------------------------


def test_a_settlement_is_false_only_if_it_is_empty() -> None:
    assert not Settlement()
    replaced = Settlement()
    replaced.replace("tag", Write("id", b"{}"))
    for settlement in (replaced, Settlement(done=["tag"])):
        assert settlement
        assert list(settled_tags(settlement)) == ["tag"]


def test_settlements_are_added_in_order() -> None:
    first = settlement_of(single(), RETRY, NOW)
    second = settlement_of(fresh(), DONE, NOW)
    first.add(second)
    assert [list(one.tags) for one in first.replacements] == [["tag-0"]]
    assert first.done == ALL_REMOVED
    assert second.replacements == []


@pytest.mark.parametrize(("given", "kept"), [(9, 9), (0, 0), (None, None), (10, None), ("9", None)])
def test_a_retried_message_keeps_its_priority(given: Any, kept: Any) -> None:
    for outcome in (RETRY, DEFER):
        (write,) = writes(settlement_of(single(broker_priority=given), outcome, NOW))
        assert write.priority == kept


def test_a_frozen_batch_has_the_highest_priority_of_its_parts() -> None:
    parts = [message(0), message(1, broker_priority=3), message(2, broker_priority=7)]
    batch = Batch.of([Delivery(one, f"tag-{n}") for n, one in enumerate(parts)])
    (write,) = writes(settlement_of(batch, RETRY, NOW))
    assert write.priority == 7
    (again,) = writes(settlement_of(decode_batch(read(write), "tag"), RETRY, NOW))
    assert again.priority == 7
    (plain,) = writes(settlement_of(fresh(), RETRY, NOW))
    assert plain.priority is None


def test_a_settlement_is_due_with_the_first_message_that_it_schedules() -> None:
    batch = fresh()
    batch.part_outcomes = [RETRY, DEFER, DEAD]
    assert settlement_of(batch, DONE, NOW).due == IN_5_S
    assert settlement_of(single(), DEAD, NOW).due is None
    assert settlement_of(single(), DONE, NOW).due is None


def test_a_dead_letter_is_the_message_with_its_failure() -> None:
    before = message(7, mine=1)
    dead = as_dead_letter(before, FAILURE)
    assert dead.options == {"mine": 1, "failure": FAILURE.to_json()}
    assert dead.copy(options={}).kwargs == before.kwargs
    assert before.options == {"mine": 1}
