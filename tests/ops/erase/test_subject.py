"""Which values are about a submission, a form or an address."""

from __future__ import annotations

from typing import Any

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.ops.erase.subject import Subject, check_id

ANN = Subject.of_email("Ann@Example.com")


@pytest.mark.parametrize(
    "value",
    [
        {"to": ["ann@example.com"]},
        {"cc": "Ann Doe <ANN@EXAMPLE.COM>"},
        {"answers": {"q1": {"deep": [[{"x": "please write to ann@example.com."}]]}}},
        {"url": "https://x.example/?to=ann@example.com&x=1"},
        {"url": "https://x.example/?to=ann%40example.com"},
        {"html": "<a href='mailto:ann&#64;example.com'>"},
        {"text": 'a letter with {"mail": "ann@example.com"} in it'},
        {"text": '{"mail": "ann\\u0040example.com"}'},
        {"text": '{"mail": "\\u003cann@example.com\\u003e"}'},
        {"text": '{"answer": "write to\\nann@example.com\\nsoon"}'},
        {"url": "https://x.example/?text=write+to%0Aann@example.com"},
        {"html": "<a href='mailto:ann&#x40;example.com'>"},
        {"html": "<a href='ann@example.com'>"},
        {"ann@example.com": True},
        "ann@example.com, bob@example.com",
    ],
)
def test_an_address_is_found_in_any_case_and_at_any_place(value: Any) -> None:
    assert ANN.is_in({"kwargs": {"payload": value}})


@pytest.mark.parametrize(
    "text",
    [
        "joann@example.com",
        "jo.ann@example.com",
        "ann+news@example.com",
        "x+ann@example.com",
        "o'ann@example.com",
        "ann@example.com.au",
        "ann@example.community",
        "ann@mail.example.com",
        "ann at example.com",
        "ann@",
        "@example.com",
    ],
)
def test_another_address_is_not_found(text: str) -> None:
    assert not ANN.is_in({"q": text})
    assert not ANN.is_in_bytes(text.encode())


def test_an_international_domain_is_found_in_both_spellings() -> None:
    subject = Subject.of_email("jörg@bücher.example")
    assert subject.is_in(["JÖRG@BÜCHER.example"])
    assert subject.is_in(["jo\u0308rg@xn--bcher-kva.example"])
    assert not subject.is_in(["jorg@bücher.example"])


@pytest.mark.parametrize(
    "value",
    [
        {"submissionId": "s1"},
        {"submission_id": "s1"},
        {"body": {"data": [{"SubmissionID": "s1"}]}},
        {"submission": {"id": "s1", "x": 2}},
        {"text": '{"submissionId": "s1"}'},
        {"text": '{\\"submission_id\\":\\"s1\\"}'},
        {"url": "https://x.example/?submission-id=s1"},
    ],
)
def test_a_submission_is_found_by_the_name_of_its_field(value: Any) -> None:
    assert check_id("submission", "s1").is_in([value])


@pytest.mark.parametrize(
    "value",
    [
        {"submissionId": "s10"},
        {"submissionId": "S1"},
        {"formId": "s1"},
        {"id": "s1"},
        {"answers": {"q": "s1"}},
        {"text": '{"submissionId": "s1-b"}'},
        {"submissionId": None, "n": 1},
    ],
)
def test_another_field_or_id_is_not_found(value: Any) -> None:
    assert not check_id("submission", "s1").is_in(value)


def test_ids_that_are_numbers_are_found() -> None:
    form = check_id("form", "17")
    assert form.is_in({"formId": 17})
    assert not form.is_in({"formId": True, "count": 17})


def test_bytes_that_are_no_json_are_searched_too() -> None:
    assert ANN.is_in_bytes(b"\xff{ann@example.com")
    assert check_id("form", "f1").is_in_bytes(b'\xff"formId": "f1", ')
    assert not check_id("form", "f1").is_in_bytes(b"\xfff1")


def test_a_long_text_takes_no_quadratic_time() -> None:
    assert not ANN.is_in("a" * 1_000_000 + "@" * 10_000)


def test_what_is_logged_names_no_address() -> None:
    assert "ann" not in ANN.words + repr(ANN)
    assert ANN.words == Subject.of_email("ann@EXAMPLE.com").words
    assert check_id("form", "f1").words == "form f1"


@pytest.mark.parametrize("text", ["", " ", "a b@example.com", "annette", "Ann <ann@example.com>"])
def test_what_is_no_address_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(InvalidJob) as refusal:
        Subject.of_email(text)
    assert not text.strip() or text not in str(refusal.value)


@pytest.mark.parametrize("text", ["", " s1"])
def test_an_empty_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidJob):
        check_id("submission", text)
