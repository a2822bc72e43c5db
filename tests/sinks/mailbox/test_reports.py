"""Reports as servers write them, garbage, and what must not end up in a log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from formrelay.sinks.mailbox.model import Ignored, Report, Unreadable
from formrelay.sinks.mailbox.reports import MAX_MESSAGE, read_report

CORPUS = Path(__file__).parent / "corpus"
ID = "0123456789abcdef0123456789abcdef"

ANN, CORP, YAHOO = "ann@gone.example", "ann@corp.example", "ann@yahoo.example"
#: Kind, and the most reliable address and status of each recipient.
REPORTS = {
    "complaint_without_recipient": ("complaint", [(ANN, "")]),
    "exchange_on_premises": ("bounce", [(CORP, "5.1.1")]),
    "exim_old": ("bounce", [(ANN, "5.1.1")]),
    "exim_status_in_diagnostic": ("bounce", [(ANN, "5.1.1")]),
    "google_no_such_user": ("bounce", [(ANN, "5.1.1")]),
    "google_over_quota": ("bounce", [(ANN, "4.2.2")]),
    "microsoft_complaint": ("complaint", [("ann@hotmail.example", "")]),
    "microsoft_policy": ("bounce", [(ANN, "5.7.1")]),
    "microsoft_recipient_not_found": ("bounce", [("Ann@gone.example", "5.1.10")]),
    "opensmtpd": ("bounce", [(ANN, "5.1.1")]),
    "postfix_no_such_user": (
        "bounce",
        [("ann+list@gone.example", "5.1.1"), ("ben@full.example", "5.2.2")],
    ),
    "postfix_of_yahoo": ("bounce", [(YAHOO, "5.1.1")]),
    "qmail": ("bounce", [(ANN, "5.1.1")]),
    "ses_no_such_user": ("bounce", [(ANN, "5.1.1")]),
    "utf8_address": ("bounce", [("jörg@gone.example", "5.1.1")]),
    "yahoo_complaint": ("complaint", [(YAHOO, "")]),
    "yahoo_text": ("bounce", [(YAHOO, "5.1.1")]),
}
IGNORED = {
    "dkim_feedback": "no complaint",
    "google_delayed": "delayed",
    "out_of_office_exchange": "automatic reply",
    "out_of_office_german": "automatic reply",
    "out_of_office_google": "automatic reply",
    "postfix_success": "no failure",
    "read_receipt": "automatic reply",
}
UNREADABLE = {"a_person"}


def content(name: str) -> bytes:
    return (CORPUS / f"{name}.eml").read_bytes()


def test_each_message_of_the_corpus_is_expected() -> None:
    names = {path.stem for path in CORPUS.glob("*.eml")}
    assert names == REPORTS.keys() | IGNORED.keys() | UNREADABLE


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_report_is_read(name: str, newline: bytes) -> None:
    found = read_report(content(name).replace(b"\n", newline))
    assert isinstance(found, Report)
    kind, recipients = REPORTS[name]
    assert (found.kind, found.ids) == (kind, [ID])
    assert [(each.addresses[0], each.status) for each in found.recipients] == recipients
    assert not any(address in repr(found) for address, _ in recipients)


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_no_failure_is_ignored(name: str) -> None:
    assert read_report(content(name)) == Ignored(IGNORED[name])


@pytest.mark.parametrize("name", UNREADABLE)
def test_the_mail_of_a_person_is_no_report(name: str) -> None:
    assert read_report(content(name)) == Unreadable()


def test_copies_of_a_report_have_one_digest_and_other_reports_another() -> None:
    bounce = content("postfix_no_such_user")
    copy = b"Received: from elsewhere\nStatus: RO\n" + bounce
    other = bounce.replace(b"20261102090001.5A1", b"20261102090001.5A2")
    digests = [read_report(each).digest for each in (bounce, copy, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_message_that_is_too_large_is_unreadable() -> None:
    assert read_report(content("qmail") + b"x" * MAX_MESSAGE) == Unreadable()


def test_the_words_of_a_server_are_read_at_the_start_of_a_large_message() -> None:
    found = read_report(content("qmail") + b"attachment\n" * 100_000)
    assert isinstance(found, Report)
    assert [each.status for each in found.recipients] == ["5.1.1"]


def test_hostile_character_sets_take_no_time() -> None:
    start = time.perf_counter()
    text = b"Content-Type: text/plain; charset=punycode\n\nMessage-ID: " + b"a" * 3_000_000
    assert read_report(text) == Unreadable()
    assert time.perf_counter() - start < 20


def test_a_deeply_nested_message_is_read_or_unreadable() -> None:
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(3000)
    )
    assert read_report(deep) == Unreadable()


@given(st.binary(max_size=500))
@example(b"Content-Type: message/delivery-status; charset=nope\n\nFinal-Recipient: \x00;\xff\n")
@example(b"Content-Type: message/feedback-report\n\nFeedback-Type: abuse\n")
def test_garbage_never_raises(data: bytes) -> None:
    read_report(data)


@given(st.sampled_from([*REPORTS, *IGNORED]), st.data())
def test_damaged_reports_never_raise(name: str, data: st.DataObject) -> None:
    whole = content(name)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 60)))
    read_report(whole[:start] + data.draw(st.binary(max_size=30)) + whole[end:])
