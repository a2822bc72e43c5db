"""Failures of the same kind share a group, whatever ids and values their texts contain."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from formrelay.core.error_groups import GROUP_ID_LENGTH, MAX_LENGTH, group_id, is_error, normalise
from formrelay.core.failure import Failure, Reason

#: Texts that are likely to contain quotes, ids, paths and placeholders.
PIECES = st.sampled_from(
    [*"'\"`<>@/:.,-(){}= \n", "a", "it's", "5", "404", "deadbeef1", "<number>", "<text>", "http://"]
)
TEXTS = st.text(max_size=400) | st.lists(PIECES, max_size=60).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the API answered 503 after 1.5 s", "the API answered <number> after <number> s"),
        ("expected 1,024 rows, got 17", "expected <number> rows, got <number>"),
        ("no form 0b0ff9a0-5c3e-4c41-9a55-dc0e1cf9b1a2.", "no form <id>."),
        ("block deadbeef01 at 0x7fff5694dc58", "block <id> at <id>"),
        ("job inbox-1748000000123456 failed", "job inbox-<number> failed"),
        ("token ya29a0AfB1byC4Qw8T9 expired", "token <id> expired"),
        ("refused: bob@example.org (550)", "refused: <address> (<number>)"),
        ("cannot reach 10.0.0.7:5432 or [fe80::1]", "cannot reach <number> or [<address>]"),
        ("GET https://x.example/a?b=1: 404", "GET <url>: <number>"),
        ("no such file: '/etc/a b'", "no such file: <text>"),
        ("cannot read /srv/forms/7.json, gone", "cannot read <path>, gone"),
        (r"cannot read C:\forms\7.json", "cannot read <path>"),
        ("expected 'a', got \"b c\"", "expected <text>, got <text>"),
        ("can't do that, it isn't allowed", "can't do that, it isn't allowed"),
        ("expected text/html or either/or", "expected text/html or either/or"),
        ("SinkTransient:\n  timed   out", "SinkTransient: timed out"),
        ("x" * 61, "<text>"),
        ("", ""),
    ],
)
def test_parts_that_differ_each_time_become_placeholders(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(TEXTS)
@example("'q e@'5' w'")
@example("x'7'7'")
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(TEXTS, st.integers(1, 50))
def test_a_normalised_text_is_short_and_has_no_digits_and_no_line_breaks(
    text: str, times: int
) -> None:
    found = normalise(text * times)
    assert len(found) <= MAX_LENGTH
    assert not any(character.isdecimal() or character in "\r\n" for character in found)


@given(st.text(max_size=50), st.integers(), st.integers(), st.uuids(), st.uuids())
def test_only_numbers_and_ids_apart_is_the_same_group(
    text: str, one: int, other: int, first: object, second: object
) -> None:
    left = failure(f"{text} gave {abs(one)} for {first}")
    assert group_id(left) == group_id(failure(f"{text} gave {abs(other)} for {second}"))


@pytest.mark.parametrize("piece", ["'", "'a ", "a@", "a:", "a'", '"`', "0-", "<text>'", "://"])
def test_a_huge_text_of_openings_is_normalised(piece: str) -> None:
    # It would take hours if the time were not linear.
    assert len(normalise(piece * 3_000_000)) <= MAX_LENGTH


def failure(message: str, error: str = "builtins.ValueError") -> Failure:
    return Failure(Reason.NOT_RETRIED, error, message, at="", attempt=1, worker="")


def test_the_id_of_a_group_is_short_and_the_same_in_each_version() -> None:
    assert group_id(failure("the API answered 503")) == "db35db9ad9"
    assert group_id(failure("the API answered 500")) == "db35db9ad9"
    assert group_id(None) == group_id(failure("", ""))
    assert len(group_id(None)) == GROUP_ID_LENGTH


def test_other_errors_and_other_texts_are_other_groups() -> None:
    of = [failure("x"), failure("y"), failure("x", "KeyError")]
    assert len({group_id(each) for each in of}) == 3
    assert group_id(failure("\udcff")) != group_id(failure("x"))  # a lone surrogate


@pytest.mark.parametrize(
    ("sought", "expected"),
    [
        ("SinkTimeout", True),
        ("sinktimeout", True),
        ("formrelay.core.errors.SinkTimeout", True),
        ("errors.SinkTimeout", True),
        ("Timeout", False),  # a type is whole
        ("formrelay", False),
        ("from Bob's shop", True),
        ("answered 503", True),
        ("ANSWERED <number>", True),
        (" answered <number> from […] after <number> ms ", True),
        ("after […] answered", False),
        ("answered 504", False),
        ("", False),
        (" ", False),
        ("[…]", False),
    ],
)
def test_an_error_is_sought_by_its_whole_type_or_a_part_of_its_text(
    sought: str, expected: bool
) -> None:
    found = failure(
        "it answered 503 from Bob's shop after 12 ms", "formrelay.core.errors.SinkTimeout"
    )
    assert is_error(found, sought) is expected


def test_what_a_group_shows_finds_its_failures() -> None:
    text = "no answer from https://one.example/7 for bob@one.example within 10 s"
    assert is_error(failure(text), normalise(text))
    assert not is_error(None, "outside formrelay")
