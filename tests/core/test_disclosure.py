"""The details of an exception that are written: text, places or the type alone."""

from __future__ import annotations

import pytest

from formrelay.brokers.envelope import decode
from formrelay.core.disclosure import DEFAULT, Detail, Disclosure
from formrelay.core.errors import FormrelayError, SinkPermanent
from formrelay.core.failure import Failure, Reason

SECRET = "SECRET-VALUE"
OWN = {detail: Disclosure(detail, is_of_formrelay=False) for detail in Detail}


def failure(error: Exception, disclosure: Disclosure) -> Failure:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise error from cause
    except Exception as caught:
        return Failure.of(
            caught, reason=Reason.NOT_RETRIED, attempt=1, now=0, disclosure=disclosure
        )


@pytest.mark.parametrize(
    ("disclosure", "message", "has_places", "cause"),
    [
        (DEFAULT, "ValueError", True, "KeyError"),
        (OWN[Detail.MESSAGE], SECRET, True, f"KeyError: '{SECRET}'"),
        (OWN[Detail.PLACES], "ValueError", True, "KeyError"),
        (OWN[Detail.NONE], "ValueError", False, "KeyError"),
        (Disclosure(Detail.MESSAGE), SECRET, True, f"KeyError: '{SECRET}'"),
    ],
)
def test_a_failure_has_what_is_told(
    disclosure: Disclosure, message: str, has_places: bool, cause: str
) -> None:
    found = failure(ValueError(SECRET), disclosure)
    assert (found.error, found.message) == ("ValueError", message)
    assert bool(found.where) is has_places
    assert found.causes == (cause,)


def test_an_actor_of_ones_own_may_raise_formrelays_errors_with_any_text() -> None:
    error = SinkPermanent(SECRET)
    assert failure(error, DEFAULT).message == SECRET
    assert failure(error, OWN[Detail.MESSAGE]).message == SECRET
    kind = "formrelay.core.errors.SinkPermanent"
    assert failure(error, OWN[Detail.PLACES]).message == kind
    assert OWN[Detail.NONE].text(SinkPermanent(SECRET)) == kind  # of a part, which is not raised


def test_the_text_of_an_error_that_formrelay_raised_is_told_always() -> None:
    with pytest.raises(FormrelayError) as caught:
        decode(b"[]", queue_name="q", job_types={})
    for disclosure in OWN.values():
        assert disclosure.text(caught.value) == "expected a JSON object, got a list"


class Odd(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (ValueError("\ud800"), "?"),
        (Odd(), f"{__name__}.Odd"),
        (ValueError("x" * 50_000), "x" * 20_000),
    ],
    ids=["empty", "surrogate", "raises", "long"],
)
def test_any_text_can_be_stored(error: Exception, text: str) -> None:
    assert OWN[Detail.MESSAGE].text(error) == text
    assert len(failure(error, OWN[Detail.MESSAGE]).message) <= 4_000
