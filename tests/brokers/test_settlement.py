"""settle: every outcome of every kind of delivery, as one table of operations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers.envelope import decode, encode, encode_batch, is_frozen, thaw
from formrelay.brokers.settlement import (
    Settlement,
    Write,
    buried,
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
    """Three messages fetched one by one; the second was tried before."""
    parts = [message(0), message(1, retries=4), message(2)]
    return Batch.of([Delivery(one, f"tag-{n}") for n, one in enumerate(parts)])


def stored() -> Batch:
    """The same as one message, as it comes back from the broker."""
    frozen = encode_batch(fresh(), {"retries": 4}).copy(message_id="batch-1")
    return thaw(decode(encode(frozen), queue_name="q", job_types={}), "tag-batch")


def read(write: Write) -> Message[Any]:
    return decode(write.body, queue_name="q", job_types={})


def summary(settlement: Settlement) -> dict[str, Any]:
    return {
        "schedule": [(write.tag, write.message_id, write.due) for write in settlement.schedule],
        "bury": [(write.tag, write.message_id) for write in settlement.bury],
        "remove": settlement.remove,
    }


# -- a single message ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (DONE, {"schedule": [], "bury": [], "remove": ["tag-0"]}),
        (RETRY, {"schedule": [("tag-0", "id-0", IN_30_S)], "bury": [], "remove": []}),
        (DEFER, {"schedule": [("tag-0", "id-0", IN_5_S)], "bury": [], "remove": []}),
        (DEAD, {"schedule": [], "bury": [("tag-0", "id-0")], "remove": []}),
    ],
)
def test_a_message_is_settled_by_one_operation_on_itself(
    outcome: Outcome, expected: dict[str, Any]
) -> None:
    settlement = settlement_of(single(), outcome, NOW)
    assert summary(settlement) == expected
    assert (len(settlement), bool(settlement)) == (1, True)
    assert list(settled_tags(settlement)) == ["tag-0"]


@pytest.mark.parametrize(
    ("outcome", "options"),
    [
        (RETRY, {"mine": 1, "retries": 3, "failure": FAILURE.to_json()}),
        (DEFER, {"mine": 1, "retries": 2, "failure": "earlier"}),
        (DEAD, {"mine": 1, "retries": 2, "failure": FAILURE.to_json()}),
    ],
)
def test_what_is_written_is_the_message_with_its_count_and_cause(
    outcome: Outcome, options: dict[str, Any]
) -> None:
    delivery = single(mine=1, retries=2, failure="earlier")
    settlement = settlement_of(delivery, outcome, NOW)
    (write,) = settlement.schedule + settlement.bury
    assert read(write) == Message("q", "act", (), {"number": 0}, options, "id-0", 1)
    # The delivery itself is as it was: its consumer may have to settle it again.
    assert delivery.options == {"mine": 1, "retries": 2, "failure": "earlier"}


def test_an_attempt_is_counted_by_a_retry_and_not_by_a_deferral() -> None:
    for outcome, attempt in ((RETRY, 3), (DEFER, 2)):
        (write,) = settlement_of(single(retries=1), outcome, NOW).schedule
        assert Delivery(read(write), "tag").attempt == attempt


@pytest.mark.parametrize("retries", ["x", -1, None, 1.5, []], ids=repr)
def test_a_count_that_is_none_starts_at_one(retries: Any) -> None:
    (write,) = settlement_of(single(retries=retries), RETRY, NOW).schedule
    assert read(write).options["retries"] == 1


# -- a batch of messages fetched one by one ------------------------------------------------

ALL_REMOVED = ["tag-0", "tag-1", "tag-2"]


def test_a_fresh_batch_that_is_done_removes_each_part() -> None:
    settlement = settlement_of(fresh(), DONE, NOW)
    assert summary(settlement) == {"schedule": [], "bury": [], "remove": ALL_REMOVED}


def test_a_fresh_batch_that_is_dead_buries_each_part_by_itself() -> None:
    settlement = settlement_of(fresh(), DEAD, NOW)
    parts = [("tag-0", "id-0"), ("tag-1", "id-1"), ("tag-2", "id-2")]
    assert summary(settlement) == {"schedule": [], "bury": parts, "remove": []}
    assert [read(write).kwargs for write in settlement.bury] == [{"number": n} for n in range(3)]
    assert not any(is_frozen(read(write)) for write in settlement.bury)


@pytest.mark.parametrize(("outcome", "due", "attempt"), [(RETRY, IN_30_S, 6), (DEFER, IN_5_S, 5)])
def test_a_fresh_batch_that_is_tried_again_is_frozen_and_its_parts_removed(
    outcome: Outcome, due: int, attempt: int
) -> None:
    batch = fresh()
    settlement = settlement_of(batch, outcome, NOW)
    assert settlement.bury == []
    assert settlement.remove == ALL_REMOVED
    (write,) = settlement.schedule
    assert (write.tag, write.due) == (None, due)
    assert write.message_id.startswith("batch-")
    again = thaw(read(write), "tag")
    assert [part.message for part in again.parts] == [part.message for part in batch.parts]
    assert again.message_id == write.message_id
    # The most tried part counts, or a batch could be retried for ever.
    assert again.attempt == attempt
    assert list(settled_tags(settlement)) == ALL_REMOVED


def test_two_frozen_batches_never_share_an_id() -> None:
    ids = {settlement_of(fresh(), RETRY, NOW).schedule[0].message_id for _ in range(20)}
    assert len(ids) == 20


def test_the_parts_of_a_fresh_batch_are_settled_each_by_its_own_outcome() -> None:
    batch = fresh()
    batch.part_outcomes = [DONE, RETRY, DEAD]
    settlement = settlement_of(batch, DONE, NOW)
    assert summary(settlement) == {
        "schedule": [("tag-1", "id-1", IN_30_S)],
        "bury": [("tag-2", "id-2")],
        "remove": ["tag-0"],
    }
    assert read(settlement.schedule[0]).options["retries"] == 5
    batch.part_outcomes = [DEFER, DEFER, DONE]
    assert summary(settlement_of(batch, DONE, NOW)) == {
        "schedule": [("tag-0", "id-0", IN_5_S), ("tag-1", "id-1", IN_5_S)],
        "bury": [],
        "remove": ["tag-2"],
    }


def test_the_parts_outcomes_go_before_that_of_the_whole() -> None:
    for whole in (RETRY, DEFER, DEAD):
        batch = fresh()
        batch.part_outcomes = [DONE, DONE, DONE]
        assert settlement_of(batch, whole, NOW).remove == ALL_REMOVED


def test_an_outcome_too_few_is_an_error_and_not_a_lost_part() -> None:
    batch = fresh()
    batch.part_outcomes = [DONE, DONE]
    with pytest.raises(ValueError, match="zip"):
        settlement_of(batch, DONE, NOW)


# -- a batch that was stored as one message --------------------------------------------------


def test_a_stored_batch_that_is_done_is_removed_as_one() -> None:
    assert summary(settlement_of(stored(), DONE, NOW)) == {
        "schedule": [],
        "bury": [],
        "remove": ["tag-batch"],
    }


@pytest.mark.parametrize(("outcome", "due", "attempt"), [(RETRY, IN_30_S, 6), (DEFER, IN_5_S, 5)])
def test_a_stored_batch_that_is_tried_again_replaces_itself(
    outcome: Outcome, due: int, attempt: int
) -> None:
    batch = stored()
    settlement = settlement_of(batch, outcome, NOW)
    assert summary(settlement) == {
        "schedule": [("tag-batch", "batch-1", due)],
        "bury": [],
        "remove": [],
    }
    again = thaw(read(settlement.schedule[0]), "tag")
    assert [part.message for part in again.parts] == [part.message for part in batch.parts]
    assert again.attempt == attempt


def test_a_stored_batch_that_is_dead_is_buried_part_by_part_before_it_is_removed() -> None:
    settlement = settlement_of(stored(), DEAD, NOW)
    assert summary(settlement) == {
        "schedule": [],
        "bury": [(None, "id-0"), (None, "id-1"), (None, "id-2")],
        "remove": ["tag-batch"],
    }
    assert [Failure.from_json(read(write).options["failure"]) for write in settlement.bury] == [
        FAILURE
    ] * 3


def test_the_parts_of_a_stored_batch_go_their_own_ways() -> None:
    batch = stored()
    batch.part_outcomes = [RETRY, DONE, DEAD]
    settlement = settlement_of(batch, DONE, NOW)
    assert summary(settlement) == {
        "schedule": [(None, "id-0", IN_30_S)],
        "bury": [(None, "id-2")],
        "remove": ["tag-batch"],
    }
    assert list(settled_tags(settlement)) == ["tag-batch"]


def test_positional_arguments_of_a_part_survive_every_way() -> None:
    odd = Message("q", "act", ("positional",), {}, {}, "id-9", 1)
    batch = Batch.of([Delivery(odd, "tag-9")])
    (write,) = settlement_of(batch, RETRY, NOW).schedule
    again = thaw(read(write), "tag-batch")
    assert again.parts[0].message == odd
    (dead,) = settlement_of(again, DEAD, NOW).bury
    assert read(dead).args == ("positional",)


# -- the settlement itself -------------------------------------------------------------------


def test_an_empty_settlement_is_false_and_each_kind_of_work_makes_it_true() -> None:
    write = Write("tag", "id", b"{}")
    assert not Settlement()
    assert len(Settlement()) == 0
    for settlement in (
        Settlement(schedule=[write]),
        Settlement(bury=[write]),
        Settlement(remove=["tag"]),
    ):
        assert settlement
        assert len(settlement) == 1
        assert list(settled_tags(settlement)) == ["tag"]


def test_a_settlement_is_added_to_another_in_order() -> None:
    first = settlement_of(single(), RETRY, NOW)
    second = settlement_of(fresh(), DONE, NOW)
    first.add(second)
    assert [write.tag for write in first.schedule] == ["tag-0"]
    assert first.remove == ALL_REMOVED
    assert second.schedule == []


def test_a_buried_message_is_itself_with_the_record_of_why() -> None:
    before = message(7, mine=1)
    dead = buried(before, FAILURE)
    assert dead.options == {"mine": 1, "failure": FAILURE.to_json()}
    assert dead.copy(options={}).kwargs == before.kwargs
    assert before.options == {"mine": 1}
