"""The failure record: complete, without values, and unchanged by JSON."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.core.failure import Failure, Reason, frames, worker_name

SECRET = "SECRET-VALUE"
TEXT = st.text(max_size=30)

FAILURES = st.builds(
    Failure,
    reason=st.sampled_from(Reason),
    error=TEXT,
    message=TEXT,
    at=TEXT,
    attempt=st.integers(0, 2**31),
    worker=TEXT,
    code=st.none() | st.integers(0, 999),
    where=st.lists(TEXT, max_size=6).map(tuple),
    causes=st.lists(TEXT, max_size=5).map(tuple),
)


def caught(error: BaseException, *, deep: int = 0) -> BaseException:
    """Raise and catch ``error``, ``deep`` calls below."""

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        raise error

    try:
        descend(deep)
    except BaseException as raised:
        return raised
    raise AssertionError


@given(FAILURES)
def test_a_record_is_unchanged_by_json(failure: Failure) -> None:
    assert Failure.from_json(failure.to_json()) == failure
    assert Failure.from_json(orjson.loads(orjson.dumps(failure.to_json()))) == failure


def test_the_json_of_a_record_has_only_plain_values() -> None:
    data = Failure.of(SinkPermanent("no"), reason=Reason.PERMANENT, attempt=1, now=0).to_json()
    assert {key: type(value) for key, value in data.items()} == {
        "reason": str,
        "error": str,
        "message": str,
        "at": str,
        "attempt": int,
        "worker": str,
        "code": type(None),
        "where": list,
    }


def test_records_of_earlier_versions_without_code_and_frames_are_read() -> None:
    data = Failure.of(SinkPermanent("no"), reason=Reason.PERMANENT, attempt=1, now=0).to_json()
    del data["code"], data["where"]
    assert Failure.from_json(data).where == ()


GOOD: dict[str, Any] = {
    "reason": "permanent",
    "error": "x",
    "message": "x",
    "at": "x",
    "attempt": 1,
    "worker": "x",
}


@pytest.mark.parametrize("data", [None, [], "text", {}, {**GOOD, "reason": {}}])
def test_invalid_records_raise_a_type_value_or_key_error(data: Any) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        Failure.from_json(data)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"field_of_tomorrow": {"x": 1}}, {}),
        ({"reason": "reason of tomorrow"}, {"reason": Reason.UNKNOWN}),
        ({"where": 5}, {"where": ()}),
        ({"code": "E1"}, {"code": None}),
        ({"attempt": None}, {"attempt": 0}),
        ({"at": 1.5, "message": ["x"]}, {"at": "", "message": ""}),
    ],
    ids=str,
)
def test_unknown_fields_and_values_of_newer_versions_are_ignored(
    changes: dict[str, Any], found: dict[str, Any]
) -> None:
    known = Failure(**{**GOOD, "reason": Reason.PERMANENT})
    assert Failure.from_json({**GOOD, **changes}) == replace(known, **found)


@pytest.mark.parametrize("missing", ["error", "message", "at", "attempt", "worker"])
def test_a_record_without_a_field_keeps_the_others(missing: str) -> None:
    read = Failure.from_json({name: value for name, value in GOOD.items() if name != missing})
    assert read.reason is Reason.PERMANENT
    assert not getattr(read, missing)


def test_a_record_has_reason_time_place_and_attempt() -> None:
    error = caught(SinkTransient("the receiver answered 503", code=503))
    failure = Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=7, now=1_769_851_800.125)
    assert failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert failure.error == "formrelay.core.errors.SinkTransient"
    assert failure.message == "the receiver answered 503"
    assert failure.at == "2026-01-31T09:30:00.125Z"
    assert (failure.attempt, failure.code) == (7, 503)
    assert failure.worker == worker_name() == f"{socket.gethostname()}:{os.getpid()}"
    assert failure.where[-1].endswith(" descend")


def test_a_record_has_no_text_of_other_packages_exceptions() -> None:
    error = caught(ValueError(SECRET))
    error.__cause__ = RuntimeError(SECRET)
    error.add_note(SECRET)
    failure = Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=1, now=0)
    assert SECRET not in repr(failure)
    assert SECRET not in orjson.dumps(failure.to_json()).decode()
    assert (failure.error, failure.message, failure.code) == ("ValueError", "ValueError", None)


def test_the_code_attribute_of_other_packages_exceptions_is_ignored() -> None:
    error = caught(SystemExit(SECRET))  # its .code may be any object
    assert Failure.of(error, reason=Reason.PERMANENT, attempt=1, now=0).code is None


@pytest.mark.parametrize("deep", [0, 3, 40])
def test_frames_are_the_innermost_six_without_any_absolute_path(deep: int) -> None:
    found = frames(caught(ValueError(SECRET), deep=deep))
    assert len(found) == min(deep + 2, 6)
    for frame in found:
        assert re.fullmatch(r"core/test_failure\.py:\d+ (descend|caught)", frame), frame
    assert found[-1].endswith(" descend")


def test_frames_of_libraries_have_no_absolute_path() -> None:
    error = caught_from(lambda: orjson.loads("{"))
    assert all(not frame.startswith(("/", "\\")) for frame in frames(error))
    assert all(frame.count("/") <= 1 for frame in frames(error))


def caught_from(function: Any) -> BaseException:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


def test_an_error_that_was_never_raised_has_no_frames() -> None:
    assert frames(ValueError()) == ()


def test_a_record_names_the_causes_and_no_values() -> None:
    def fail() -> None:
        try:
            try:
                raise ValueError(SECRET)
            except ValueError:
                raise SinkTransient("no answer from the server") from None
        except SinkTransient as error:
            raise SinkPermanent("the endpoint is gone") from error

    with pytest.raises(SinkPermanent) as caught:
        fail()
    record = Failure.of(caught.value, reason=Reason.PERMANENT, attempt=1, now=0)
    assert record.causes == ("formrelay.core.errors.SinkTransient: no answer from the server",)
    assert Failure.from_json(record.to_json()) == record


def test_the_context_of_an_error_is_a_cause_and_a_circle_ends() -> None:
    def fail() -> None:
        try:
            raise ValueError(SECRET)
        except ValueError:
            {}["missing"]

    with pytest.raises(KeyError) as caught:
        fail()
    error = caught.value
    assert Failure.of(error, reason=Reason.UNKNOWN, attempt=1, now=0).causes == ("ValueError",)
    assert error.__context__ is not None
    error.__context__.__cause__ = error
    assert Failure.of(error, reason=Reason.UNKNOWN, attempt=1, now=0).causes == ("ValueError",)


def test_a_record_is_bounded() -> None:
    """RabbitMQ takes headers of up to 128 KiB; a page shows many records."""
    made = Failure.of(SinkPermanent("x" * 1_000_000), reason=Reason.PERMANENT, attempt=1, now=0)
    assert len(made.message) == 4_000
    assert made.message.endswith("x…")
    long = ["x" * 1_000_000] * 1_000
    hostile = {**made.to_json(), "message": long[0], "error": long[0], "where": long}
    read = Failure.from_json({**hostile, "causes": long, "worker": long[0], "at": long[0]})
    assert len(orjson.dumps(read.to_json())) < 60_000
