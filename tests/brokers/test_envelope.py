"""encode and decode: messages are unchanged or refused, and only documented errors are raised."""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from dramatiq import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from formrelay.brokers.envelope import (
    MAX_LEVELS,
    UNDECODABLE,
    Undecodable,
    decode,
    decode_batch,
    encode,
    encode_batch,
    is_frozen,
    priority_in,
    wrap_undecodable,
)
from formrelay.brokers.fields import encode_for_replay
from formrelay.core.errors import InvalidJob
from formrelay.core.failure import Failure, Reason
from formrelay.middleware.delivery import BATCH, Batch, Delivery

SECRET = "SECRET-VALUE"
JOB_TYPES = {"greeting.send": "greet", "event.record": "record"}
FAILURE = Failure.of(Undecodable("odd"), reason=Reason.UNDECODABLE, attempt=0, now=0)

# Values that JSON can represent: text without lone surrogates, integers of 64 bits.
TEXT = st.text(max_size=20)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
#: Options without a meaning for workers.
OPTIONS = OBJECTS.map(
    lambda options: {k: v for k, v in options.items() if k not in ("throws", "frozen")}
)
MESSAGES = st.builds(
    Message,
    queue_name=st.just("q"),
    actor_name=TEXT,
    args=st.lists(JSON, max_size=3).map(tuple),
    kwargs=OBJECTS,
    options=OPTIONS,
    message_id=TEXT,
    message_timestamp=st.integers(0, 2**53),
)


def read(data: bytes) -> Message[Any]:
    return decode(data, queue_name="q", job_types=JOB_TYPES)


def message(*args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Message[Any]:
    return Message("q", "act", args, kwargs, options or {}, "id-1", 1_700_000_000_000)


def exactly(value: Any) -> Any:
    """``value`` in a form that distinguishes 1, 1.0 and True, and 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: exactly(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [exactly(one) for one in value]
    return type(value), repr(value)


def nested(levels: int, inner: Any = SECRET) -> Any:
    for _ in range(levels):
        inner = [inner]
    return inner


# -- round trip ------------------------------------------------------------------------


@given(MESSAGES)
def test_decode_after_encode_is_the_identity(given_message: Message[Any]) -> None:
    before = copy.deepcopy(given_message)
    after = read(encode(given_message))
    assert exactly(after.asdict()) == exactly(before.asdict())
    assert given_message == before


@given(MESSAGES)
def test_stock_dramatiq_decodes_our_messages(given_message: Message[Any]) -> None:
    theirs = Message.decode(encode(given_message))
    assert exactly(theirs.asdict()) == exactly(given_message.asdict())


@given(MESSAGES)
def test_we_decode_messages_of_stock_dramatiq(given_message: Message[Any]) -> None:
    assert exactly(read(given_message.encode()).asdict()) == exactly(given_message.asdict())


def test_a_tuple_comes_back_as_a_list_as_in_stock_dramatiq() -> None:
    assert read(encode(message((1, 2)))).args == ([1, 2],)
    assert Message.decode(message((1, 2)).encode()).args == ([1, 2],)


def test_the_queue_is_the_one_it_was_received_from() -> None:
    assert decode(encode(message()), queue_name="other", job_types={}).queue_name == "other"


# -- refused when sent -------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**64,
        -(2**63) - 1,
        10**400,
        {1, 2},
        b"bytes",
        object(),
        "\ud800",
        {"\ud800": 1},
        {1: "a key that is a number"},
        {None: 1},
        datetime.now(UTC),
        date(2026, 1, 1),
        Path("x"),
        Failure.of(ValueError(), reason=Reason.INVALID, attempt=0, now=0),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: message(value),
        lambda value: message(payload={"a": [1, None, {"b": value}]}),
        lambda value: message(payload=[[(value,)]]),
        lambda value: message(options={"mine": value}),
    ],
    ids=["args", "in an object", "in a tuple", "options"],
)
def test_values_that_json_would_change_are_refused(value: Any, wrap: Any) -> None:
    with pytest.raises(InvalidJob, match="expected arguments that JSON can hold"):
        encode(wrap(value))


@given(JSON, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_nan_and_infinity_are_found_anywhere(value: Any, odd: float, data: st.DataObject) -> None:
    """orjson would encode them as null."""
    places = list(containers(holder := {"top": value}))
    place = data.draw(st.sampled_from(places))
    if isinstance(place, dict):
        place["odd"] = odd
    else:
        place.append(odd)
    with pytest.raises(InvalidJob, match="not finite"):
        encode(message(**holder))


def containers(value: Any) -> Iterable[Any]:
    if isinstance(value, dict | list):
        yield value
        for one in list(value.values() if isinstance(value, dict) else value):
            yield from containers(one)


def test_the_largest_integers_of_64_bit_are_kept() -> None:
    numbers = [2**64 - 1, -(2**63), 2**53 + 1, 10**18]
    assert read(encode(message(numbers))).args == (numbers,)


def test_arguments_nested_too_deeply_are_refused() -> None:
    with pytest.raises(InvalidJob, match="levels"):
        encode(message(nested(MAX_LEVELS)))


# -- undecodable bytes -------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "queue_name": "q",
    "actor_name": "act",
    "args": [SECRET],
    "kwargs": {SECRET: SECRET},
    "options": {},
    "message_id": "id-1",
    "message_timestamp": 1_700_000_000_000,
}


def without(name: str) -> bytes:
    return orjson.dumps({key: value for key, value in GOOD.items() if key != name})


def changed(**changes: Any) -> bytes:
    return orjson.dumps({**GOOD, **changes})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected JSON, got 0 bytes"),
        (b"\xff\xfe" + SECRET.encode(), "expected JSON, got 14 bytes"),
        (b'{"a": NaN}', "expected JSON"),
        (b'{"a": 1e999}', "expected JSON"),
        (b'{"a": "\\ud800"}', "expected JSON"),
        (b"null", "expected a JSON object, got null"),
        (b"[1]", "expected a JSON object, got a list"),
        (b'"SECRET-VALUE"', "expected a JSON object, got a string"),
        (b"5", "expected a JSON object, got a number"),
        (b"true", "expected a JSON object, got a boolean"),
        (b"{}", "expected a message with 'args', got a message without"),
        *((without(name), f"with '{name}'") for name in GOOD if name != "queue_name"),
        (changed(args={}), "args of a message to be list, got an object"),
        (changed(args=SECRET), "args of a message to be list, got a string"),
        (changed(kwargs=[]), "kwargs of a message to be dict, got a list"),
        (changed(options=None), "options of a message to be dict, got null"),
        (changed(actor_name=5), "actor_name of a message to be str, got a number"),
        (changed(actor_name=None), "actor_name of a message to be str, got null"),
        (changed(message_id=["x"]), "message_id of a message to be str, got a list"),
        (changed(message_timestamp="now"), "message_timestamp of a message to be int"),
        (changed(message_timestamp=1.5), "message_timestamp of a message to be int"),
        (changed(options={"throws": SECRET}), "expected no 'throws'"),
        (changed(options={"throws": [1]}), "expected no 'throws'"),
        (changed().replace(b"17000", b"9" * 20), "at most 64 bits"),
        (changed(args=["N"]).replace(b'"N"', b"18446744073709551616"), "at most 64 bits"),
        (changed(args=["N"]).replace(b'"N"', b"-9223372036854775809"), "at most 64 bits"),
        (changed(args=["N"]).replace(b'"N"', b"9" * 300), "at most 64 bits"),
        (changed(args=nested(MAX_LEVELS)), "levels"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "levels"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"type": "no.such.job"}', "expected a known job type (event.record, greeting.send)"),
        (b'{"type": ["SECRET-VALUE"]}', "expected a known job type"),
        (b'{"type": null}', "expected a known job type"),
    ],
)
def test_the_error_says_what_was_expected_and_quotes_nothing(data: bytes, text: str) -> None:
    with pytest.raises(Undecodable) as caught:
        read(data)
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_undecodable(data: bytes) -> None:
    decodes_or_says_so(data)


@given(JSON)
def test_random_json_raises_nothing_but_undecodable(value: Any) -> None:
    decodes_or_says_so(orjson.dumps(value))


@given(MESSAGES, st.data())
def test_a_message_with_changed_bytes_raises_nothing_but_undecodable(
    given_message: Message[Any], data: st.DataObject
) -> None:
    encoded = bytearray(encode(given_message))
    for _ in range(data.draw(st.integers(1, 5))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_says_so(bytes(encoded))


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_a_message_with_a_changed_field_raises_nothing_but_undecodable(
    name: str, value: Any
) -> None:
    decodes_or_says_so(changed(**{name: value}))


@settings(deadline=None)
@given(st.integers(0, 1200), st.sampled_from(["[]", "{}"]))
def test_any_depth_is_decoded_or_undecodable(levels: int, kind: str) -> None:
    opening, closing = ("[", "]") if kind == "[]" else ('{"a":', "}")
    inner = opening * levels + "1" + closing * levels
    decodes_or_says_so(changed(args=["N"]).replace(b'"N"', inner.encode()))


def decodes_or_says_so(data: bytes) -> None:
    """Decode data; a decoded message can also be encoded, which its settlement needs."""
    try:
        decoded = read(data)
    except Undecodable:
        return
    dead = decoded.copy(options={"failure": FAILURE.to_json()})
    assert exactly(read(encode(dead)).args) == exactly(decoded.args)
    if is_frozen(decoded):
        try:
            batch = decode_batch(decoded, "tag")
        except Undecodable:
            return
        encode(encode_batch(batch, {}))
    else:
        batch = Batch.of([Delivery(decoded, "tag")])
        assert (
            decode_batch(read(encode(encode_batch(batch, {}))), "tag").parts[0].message == decoded
        )


def test_falsy_throws_are_accepted() -> None:
    assert read(changed(options={"throws": None})).options == {"throws": None}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1e300, 1.2345678901234567e-300])
def test_a_long_number_within_the_limits_is_decoded_exactly(number: float) -> None:
    assert exactly(read(changed(args=[number])).args) == exactly((number,))


def test_long_digits_in_a_string_are_not_a_number() -> None:
    assert read(changed(args=["9" * 50])).args == ("9" * 50,)


# -- plain jobs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "kwargs"),
    [
        ({"payload": {"a": 1}, "metadata": {"b": 2}}, {"payload": {"a": 1}, "metadata": {"b": 2}}),
        ({"payload": [1]}, {"payload": [1], "metadata": {}}),
        ({"payload": 1, "metadata": None}, {"payload": 1, "metadata": {}}),
        ({}, {"payload": None, "metadata": {}}),
        ({"payload": 1, "metadata": "odd"}, {"payload": 1, "metadata": "odd"}),
        ({"payload": 1, "more": 2}, {"payload": 1, "metadata": {}}),
    ],
)
def test_a_plain_job_becomes_a_message_of_its_actor(
    job: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    found = read(orjson.dumps({"type": "greeting.send", **job}))
    assert (found.queue_name, found.actor_name) == ("q", "greet")
    assert (found.args, found.kwargs, found.options) == ((), kwargs, {})
    assert found.message_id


# -- frozen batches ----------------------------------------------------------------------


def batch_of(messages: list[Message[Any]]) -> Batch:
    return Batch.of([Delivery(one, f"tag-{n}") for n, one in enumerate(messages)])


@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_a_frozen_batch_keeps_its_parts_their_order_and_their_options(
    messages: list[Message[Any]],
) -> None:
    # All messages of a batch are for one actor.
    messages = [one.copy(actor_name="act") for one in messages]
    batch = batch_of(messages)
    stored = read(encode(encode_batch(batch, {"retries": 2})))
    assert is_frozen(stored)
    again = decode_batch(stored, "tag")
    assert [exactly(part.message.asdict()) for part in again.parts] == [
        exactly(one.asdict()) for one in messages
    ]
    assert exactly(again.kwargs[BATCH]) == exactly(batch.kwargs[BATCH])
    assert (again.was_stored, again.attempt, again.actor_name) == (True, 3, "act")
    # Freezing it again changes nothing.
    twice = decode_batch(read(encode(encode_batch(again, {}))), "tag")
    assert twice.kwargs == again.kwargs
    assert [part.message for part in twice.parts] == [part.message for part in again.parts]


def test_the_deepest_message_can_still_be_frozen() -> None:
    deepest = message(nested(MAX_LEVELS - 2))
    assert read(encode(deepest)) == deepest
    with pytest.raises(InvalidJob):
        encode(message(nested(MAX_LEVELS - 1)))
    stored = read(encode(encode_batch(batch_of([deepest]), {"failure": FAILURE.to_json()})))
    assert decode_batch(stored, "tag").parts[0].message == deepest


def test_only_frozen_batches_may_use_the_limits_of_frozen_batches() -> None:
    with pytest.raises(Undecodable, match="levels"):
        read(changed(args=nested(MAX_LEVELS + 2)))


PART: dict[str, Any] = {
    "message_id": "id-1",
    "message_timestamp": 1,
    "kwargs": {},
    "options": {},
}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {BATCH: None},
        {BATCH: 5},
        {BATCH: "text"},
        {BATCH: ["text"]},
        {BATCH: [None]},
        {BATCH: [[]]},
        {BATCH: [PART, {}]},
        {BATCH: [{**PART, "kwargs": 5}]},
        {BATCH: [{**PART, "options": []}]},
        {BATCH: [{**PART, "message_id": 5}]},
        {BATCH: [{**PART, "message_timestamp": "now"}]},
        {BATCH: [{**PART, "args": "text"}]},
        {BATCH: [{**PART, "options": {"throws": "x"}}]},
    ],
)
def test_an_invalid_frozen_batch_is_undecodable(kwargs: dict[str, Any]) -> None:
    with pytest.raises(Undecodable, match="expected a frozen batch with its parts"):
        decode_batch(message(options={"frozen": True}, **kwargs), "tag")


@pytest.mark.parametrize(
    ("frozen", "expected"), [(True, True), (1, False), ("true", False), (None, False), ({}, False)]
)
def test_only_the_flag_true_marks_a_frozen_batch(frozen: Any, expected: bool) -> None:
    assert is_frozen(message(options={"frozen": frozen})) is expected


# -- undecodable bytes --------------------------------------------------------------------


@given(st.binary(max_size=500))
def test_undecodable_bytes_are_restored_unchanged(data: bytes) -> None:
    dead = wrap_undecodable(data, queue_name="q", message_id="id-1", failure=FAILURE)
    assert encode_for_replay(dead) == data
    # Also after encoding and decoding.
    assert encode_for_replay(read(encode(dead))) == data


def test_an_undecodable_message_has_its_failure_and_its_id() -> None:
    dead = wrap_undecodable(b"odd", queue_name="q", message_id="id-1", failure=FAILURE)
    assert Failure.from_json(dead.options["failure"]) == FAILURE
    assert dead.message_id == "id-1"


@given(MESSAGES)
def test_a_revived_message_has_no_attempts_and_is_otherwise_unchanged(
    given_message: Message[Any],
) -> None:
    of_attempts = {
        "failure": FAILURE.to_json(),
        "retries": 3,
        "eta": 5,
        "due_at": 5,
        "requeue_timestamp": 5,
        "redelivered": True,
        "attempt_history": [],
    }
    dead = given_message.copy(options={**of_attempts, "mine": 1})
    again = read(encode_for_replay(dead))
    (died,) = again.options.pop("attempt_history")  # for people
    assert (died["outcome"], died["attempt"]) == ("dead", FAILURE.attempt)
    # A generated option may have a name of these too.
    kept = {name: value for name, value in dead.options.items() if name not in of_attempts}
    assert exactly(again.options) == exactly(kept)
    assert again.options["mine"] == 1
    assert exactly(again.copy(options={}).kwargs) == exactly(given_message.kwargs)
    assert (again.message_id, again.args) == (given_message.message_id, given_message.args)
    assert Delivery(again, "tag").attempt == 1
    assert not Delivery(again, "tag").is_redelivered


def test_a_replayed_message_keeps_its_records_and_what_only_its_broker_knows() -> None:
    last = {"attempt": FAILURE.attempt, "at": 1.0, "outcome": "dead", "error": "E"}
    dead = Message("q", "act", (), {}, {"attempt_history": [last]}, "id-1", 1)
    assert read(encode_for_replay(dead)).options == dead.options
    # Of the same number as a recorded attempt: buried by RabbitMQ after a replay.
    found = read(encode_for_replay(dead, FAILURE)).options["attempt_history"]
    assert [one["outcome"] for one in found] == ["dead", "dead"]
    again = Message("q", "act", (), {}, {"attempt_history": found}, "id-1", 1)
    assert read(encode_for_replay(again, FAILURE)).options["attempt_history"] == found


@pytest.mark.parametrize("raw", [None, 5, "not base64!", "AAAA!", "é", {}], ids=repr)
def test_a_message_of_another_program_with_the_same_actor_name_is_kept(raw: Any) -> None:
    odd = Message("q", UNDECODABLE, (1,), {}, {"raw": raw}, "id-1", 1)
    assert read(encode_for_replay(odd)) == odd


def test_undecodable_bytes_are_base64_so_that_any_tool_can_read_them() -> None:
    dead = wrap_undecodable(b"\xff\x00", queue_name="q", message_id="id-1", failure=FAILURE)
    assert base64.b64decode(dead.options["raw"]) == b"\xff\x00"


@pytest.mark.parametrize(
    ("data", "is_text"),
    [
        (b'{"type": "unknown", "payload": "\xc3\xa9"}' * 5_000, True),
        (b"\xff" * 100_000, False),
        (b'"' * 100_000, False),  # longer as text
        (b'{"type": "unknown"}', False),
    ],
    ids=["large text", "large and binary", "all escaped", "small"],
)
def test_large_undecodable_text_is_stored_as_text_and_restored_unchanged(
    data: bytes, is_text: bool
) -> None:
    dead = wrap_undecodable(data, queue_name="q", message_id="id-1", failure=FAILURE)
    assert ("raw_text" in dead.options, "raw" in dead.options) == (is_text, not is_text)
    assert encode_for_replay(read(encode(dead))) == data
    assert len(encode(dead)) < 1.34 * len(data) + 1_000


def hidden(levels: int) -> bytes:
    """JSON nested ``levels`` deep, with closing brackets in strings."""
    before, after = b'{"a":"}","b":', b',"c":"{\\\\"}'
    return before * levels + b"1" + after * levels


def test_brackets_in_strings_do_not_reduce_the_depth() -> None:
    for levels in (MAX_LEVELS + 1, 230, 900):
        data = changed(kwargs={}).replace(b'"kwargs":{}', b'"kwargs":' + hidden(levels))
        orjson.loads(data)
        with pytest.raises(Undecodable, match="levels"):
            decode(data, queue_name="q", job_types={})


def test_brackets_in_strings_do_not_add_depth() -> None:
    text = {"text": "[{" * 400, "other": ["\\", '"[[', {"a": "}]" * 300}] * 50}
    data = changed(kwargs=text)
    assert decode(data, queue_name="q", job_types={}).kwargs == text


@pytest.mark.parametrize(
    ("given", "priority"),
    [(0, 0), (9, 9), (10, None), (-1, None), (None, None), ("9", None), (1.0, None), (True, None)],
)
def test_a_priority_of_another_producer_is_a_whole_number_or_none(
    given: object, priority: int | None
) -> None:
    assert priority_in({"broker_priority": given}) is priority
