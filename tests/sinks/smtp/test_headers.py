"""Headers: every known way to add one or to damage a value, and how long values are written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.sinks.smtp.message import Attachment, Email, write
from tests.sinks.smtp.emails import (
    DATE,
    LINE_ENDS,
    addresses_of,
    assert_sendable,
    header_lines,
    make,
    names,
    text_of,
    value,
    write_with,
)

URL = "https://example.com/u/1"
PLAIN = ["Date", "From", "To", "Subject", "Message-ID", "MIME-Version"]
PLAIN += ["Content-Type", "Content-Transfer-Encoding"]

#: Every field of text -> makes an e-mail with a text in it.
FIELDS: dict[str, Callable[[str], Email]] = {
    "subject": lambda text: make(subject=f"Hi{text}there"),
    "sender": lambda text: make(sender=f"A{text}b <a@x.y>"),
    "to": lambda text: make(to=[f'"A{text}b" <a@x.y>']),
    "cc": lambda text: make(cc=[f"A{text}b <a@x.y>"]),
    "reply_to": lambda text: make(reply_to=[f"A{text}b <a@x.y>"]),
    "local part": lambda text: make(to=[f"a{text}b@x.y"]),
    "domain": lambda text: make(to=[f"a@x{text}x.y"]),
    "id": lambda text: make(id=f"job{text}1"),
    "unsubscribe_url": lambda text: make(unsubscribe_url=f"{URL}{text}x"),
    "filename": lambda text: make(attachments=[Attachment(f"a{text}b.pdf", b"x", "image/png")]),
    "media_type": lambda text: make(attachments=[Attachment("a.pdf", b"x", f"image/p{text}ng")]),
    "kind": lambda text: make(kind=f"notice{text}"),
}


@pytest.mark.parametrize("end", [*LINE_ENDS, "\0", "\x01", "\t", "\x7f", "\x9b", "\ud800"])
@pytest.mark.parametrize("field", FIELDS)
def test_control_characters_and_line_separators_are_refused(field: str, end: str) -> None:
    if field == "unsubscribe_url" and end in ("\x85", "\u2028", "\u2029", "\x9b"):
        data = write(FIELDS[field](end))
        assert value(data, "List-Unsubscribe").startswith(f"<{URL}%")
        return
    with pytest.raises(InvalidJob, match="expected"):
        write(FIELDS[field](f"{end}Bcc: evil@example.net"))
    with pytest.raises(InvalidJob, match="expected"):
        write(FIELDS[field](end))


@pytest.mark.parametrize(
    "word",
    [
        "=?utf-8?q?Hi=0ABcc=3A_evil=40x.y?=",
        "=?utf-8?q?Hi=0D=0A=0D=0Abody?=",
        "=?UTF-8?B?SGkKQmNjOiBldmlsQHgueQ==?=",
        "=?UTF-8?B?SGkKQmNjOiBldmlsQHgueQ?=",  # without its padding
        "=?utf-8*de?q?=0A?=",
        "=?latin-1?q?=0A?=",
        "=?utf-7?q?+AAo-?=",
        "=?iso-2022-jp?q?=0A?=",
        "=?utf-8?q?a?= =?utf-8?q?=0A?=",
        "=?utf-8?q?a?b=0A?=",
        "=?utf-8?q?=E2=80=A9?=",
        "=?utf-8?q?=3D=3Futf-8=3Fq=3F=0A=3F=3D?=",
        "=?utf-8?q?=3D=3Futf-8=3Fq=3F=3D=3Futf-8=3Fq=3F=0A=3F=3D=3F=3D?=",
        "=?utf-8?b?PT91dGYtOD9xPz0wQT89?=",
    ],
)
@pytest.mark.parametrize("field", ["subject", "sender", "to", "cc", "reply_to", "filename"])
def test_encoded_words_are_decoded_first_and_refused_for_what_they_hide(
    field: str, word: str
) -> None:
    with pytest.raises(InvalidJob, match=r"got U\+"):
        write(FIELDS[field](word))


def test_an_error_names_the_field_and_the_character_and_no_value() -> None:
    with pytest.raises(InvalidJob) as caught:
        write_with(subject="Secret\nBcc: evil@example.net")
    assert str(caught.value) == (
        "expected a subject without control characters and line separators, got U+000A: remove it"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("Re: =?utf-8?q?a?=  =?utf-8?q?b?= c", "Re: ab c"),
        ("=?x-unknown?q?a?=", "=?x-unknown?q?a?="),
        ("=?utf-8?q?=FF?=", "=?utf-8?q?=FF?="),
        ("=?utf-8?q?ö?=", "=?utf-8?q?ö?="),
        ("=?unicode_escape?q?=5Cn?=", "=?unicode_escape?q?=5Cn?="),
        ("=?", "=?"),
        ("a =?utf-8?q? b", "a =?utf-8?q? b"),
        ("  two  spaces  ", "two spaces"),
        ("a: b; <c> \"d\" 'e' \\", "a: b; <c> \"d\" 'e' \\"),
        ("Ünïcödé 日本語 🎉", "Ünïcödé 日本語 🎉"),
        ("שלום \u200fעולם", "שלום \u200fעולם"),
    ],
)
def test_a_subject_reads_back_as_it_was_given(text: str, expected: str) -> None:
    data = write_with(subject=text)
    assert text_of(data, "Subject") == {expected}
    assert names(data) == PLAIN


def test_words_inside_words_are_decoded_ten_times() -> None:
    text = "a"
    for depth in range(12):
        if depth < 10:
            assert text_of(write_with(subject=text), "Subject") == {"a"}
        else:
            with pytest.raises(InvalidJob, match="at most 10 encoded words"):
                write_with(subject=text)
        inner = text.replace("=", "=3D").replace("?", "=3F")
        text = f"=?utf-8?q?{inner}?="


@pytest.mark.parametrize("text", ["", "   ", "=?utf-8?q??=", "a" * 1001, "a" * 5000, None, 5])
def test_a_subject_has_1_to_1000_characters(text: str) -> None:
    with pytest.raises(InvalidJob, match="expected a subject"):
        write_with(subject=text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1000,
        "ab " * 333,
        "a" * 500 + " " + "b" * 499,
        "ä" * 1000,
        "日" * 1000,
        "🎉" * 1000,
        "e\u0301" * 500,
        "a" * 60 + "🎉" * 300,
        "=?" * 500,
        "x " * 30 + "=?utf-8?x?" * 60,
        "long " * 15 + "x",
    ],
)
def test_long_subjects_are_folded_and_read_back(text: str) -> None:
    data = write_with(subject=text)
    assert_sendable(data)
    assert text_of(data, "Subject") == {text.strip()}
    head = data.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert all(len(line) <= 76 for line in head if b"=?utf-8?" in line)


NAMES = [
    "Doe, Ann",
    'Ann "A" Doe',
    "Ann \\ Doe\\",
    '"',
    "'",
    "Ann (Sales",
    "Ann) <b@evil.example>, Bob",
    "a@evil.example",
    "a@evil.example,",
    "Group: a, b;",
    "=?x-unknown?q?a?=",
    "=?",
    "Ann=?",
    ".",
    "Dr. Ann, Ph.D.",
    "a, " * 99 + "b",
    "日本語の長い名前" * 20,
    "Иванов Иван Иванович, мл. (отдел продаж)",
    "🎉" * 75,
    "x" * 300,
    'x"' * 150,
    "\u202eevil",
]


@pytest.mark.parametrize("name", NAMES)
def test_display_names_are_quoted_or_encoded_and_read_back(name: str) -> None:
    email = make(to=["first@x.y", "second@x.y"])
    mailbox = type(email.sender)(name, "ann", "example.org")
    data = write_with(sender=mailbox, to=[mailbox, "bob@x.y", mailbox], reply_to=[mailbox])
    assert_sendable(data)
    pair = (name, "ann@example.org")
    assert addresses_of(data, "From") == addresses_of(data, "Reply-To") == [pair]
    assert addresses_of(data, "To") == [pair, ("", "bob@x.y"), pair]
    assert value(data, "From").startswith(('"', "=?utf-8?"))


def test_a_plain_name_is_quoted_too() -> None:
    assert value(write_with(), "From") == '"Forms" <forms@example.com>'


def test_a_hundred_recipients_are_folded_between_them() -> None:
    to = [f"Ann Number {number}, Ltd. <ann{number}@example.org>" for number in range(100)]
    data = write_with(to=to, cc=[f"bob{number}@example.org" for number in range(100)])
    assert_sendable(data)
    assert len(addresses_of(data, "To")) == len(addresses_of(data, "Cc")) == 100
    assert max(len(line) for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n")) <= 78


def test_domains_are_written_in_ascii_and_never_as_encoded_words() -> None:
    data = write_with(sender="Jörg <j@exämple.com>", to=["ann@faß.de"])
    assert_sendable(data)
    assert value(data, "From").endswith("<j@xn--exmple-cua.com>")
    assert value(data, "To") == "ann@xn--fa-hia.de"
    assert value(data, "Message-ID") == "<job-1@xn--exmple-cua.com>"


def test_a_local_part_that_is_not_ascii_is_written_as_utf_8_and_nothing_else_is() -> None:
    email = make(to=["Jörg <jörg@exämple.com>", "пётр@x.y"], subject="Grüße")
    data = write(email)
    assert email.needs_smtputf8
    assert_sendable(data, is_utf8=True)
    assert addresses_of(data, "To") == [("Jörg", "jörg@xn--exmple-cua.com"), ("", "пётр@x.y")]
    assert [name for name, text in header_lines(data) if not text.isascii()] == ["To"]


def test_a_hidden_recipient_may_need_smtputf8_while_the_bytes_are_ascii() -> None:
    email = make(bcc=["jörg@x.y"])
    assert email.needs_smtputf8
    assert write(email).isascii()
    assert not make(to=["Jörg <j@exämple.com>"], subject="Grüße", text="ö").needs_smtputf8


def test_docomo_addresses_with_two_dots_are_quoted() -> None:
    data = write_with(to=["Ann <ann..doe.@docomo.ne.jp>"])
    assert value(data, "To") == '"Ann" <"ann..doe."@docomo.ne.jp>'


def test_hidden_recipients_stand_nowhere_in_the_bytes() -> None:
    email = make(cc=["b@x.y"], bcc=["Hidden <hidden@secret.example>", "ANN@example.org"])
    data = write(email)
    assert b"idden" not in data
    assert b"secret" not in data
    assert "Bcc" not in names(data)
    addresses = [mailbox.address for mailbox in email.recipients]
    assert addresses == ["ann@example.org", "b@x.y", "hidden@secret.example"]


def test_without_a_visible_recipient_the_group_says_so() -> None:
    data = write_with(to=[], bcc=["hidden@x.y"])
    assert value(data, "To") == "undisclosed-recipients:;"
    with pytest.raises(InvalidJob, match="at least one recipient"):
        write_with(to=[])


@pytest.mark.parametrize("length", [60, 300, 900, 962])
def test_an_unsubscribe_url_is_neither_encoded_nor_folded(length: int) -> None:
    url = "https://example.com/u?t=" + "a" * (length - 24)
    data = write_with(unsubscribe_url=url)
    assert f"\r\nList-Unsubscribe: <{url}>\r\n".encode() in data
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in data
    assert_sendable(data)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/u", "begins with https"),
        ("mailto:u@example.com", "begins with https"),
        ("javascript:alert(1)", "begins with https"),
        ("", "begins with https"),
        (None, "begins with https"),
        ("https://", "unsubscribe url"),
        ("https://ann:secret@example.com/", "unsubscribe url"),
        ("https://example.com/\r\nBcc: evil@x.y", "unsubscribe url"),
        ("https://example.com\\@evil.example", "unsubscribe url"),
        (" https://example.com", "begins with https"),
        ("https://example.com/#/u?t=1", "without '#'"),
        ("https://example.com/" + "a" * 1000, "at most 978"),
        ("https://example.com/" + "ä" * 200, "at most 978"),
    ],
)
def test_other_unsubscribe_urls_are_refused(url: str, why: str) -> None:
    kind = {"kind": "list"} if url is None else {}
    with pytest.raises(InvalidJob, match=why if url is not None else "unsubscribe url") as caught:
        write_with(unsubscribe_url=url, **kind)
    assert "secret" not in str(caught.value)
    assert "WEBHOOK" not in str(caught.value)


def test_characters_that_end_the_url_early_are_percent_encoded() -> None:
    data = write_with(unsubscribe_url='https://exämple.com/a>, <https://evil.example/"ö')
    expected = "<https://xn--exmple-cua.com/a%3E,%20%3Chttps://evil.example/%22%C3%B6>"
    assert value(data, "List-Unsubscribe") == expected


@pytest.mark.parametrize(
    "job_id", ["", ".a", "a.", "a..b", "a b", "a@b", "a>", "ä", "a\n", "a" * 201, None, 5]
)
def test_an_id_that_is_no_message_id_is_refused(job_id: str) -> None:
    with pytest.raises(InvalidJob, match="expected an id of"):
        write_with(id=job_id)


@pytest.mark.parametrize("job_id", ["1", "a-b_c.d=e+f", "0" * 200])
def test_the_message_id_is_made_of_the_id(job_id: str) -> None:
    assert value(write_with(id=job_id), "Message-ID") == f"<{job_id}@example.com>"


def test_the_date_is_that_of_the_job_in_utc_and_whole_seconds() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    for date in (DATE, DATE.astimezone(zone)):
        assert value(write_with(date=date), "Date") == "Sun, 29 Nov 2026 18:30:05 +0000"
    for wrong in (DATE.replace(tzinfo=None), datetime(1, 1, 1, tzinfo=UTC)):
        with pytest.raises(InvalidJob, match="time zone"):
            write_with(date=wrong)


AUTOMATIC = {"Auto-Submitted", "X-Auto-Response-Suppress", "Precedence"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("notice", {}),
        (
            "autoresponse",
            {"Auto-Submitted": "auto-replied", "X-Auto-Response-Suppress": "All"},
        ),
        ("list", {"Precedence": "bulk", "X-Auto-Response-Suppress": "OOF, AutoReply"}),
    ],
)
def test_the_kind_decides_the_headers_against_automatic_answers(
    kind: str, expected: dict[str, str]
) -> None:
    found = dict(header_lines(write_with(kind=kind, unsubscribe_url=URL)))
    assert {name: text for name, text in found.items() if name in AUTOMATIC} == expected
    assert found["List-Unsubscribe"] == f"<{URL}>"


def test_a_list_needs_an_unsubscribe_url_and_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidJob, match="expected an unsubscribe url"):
        write_with(kind="list")
    with pytest.raises(InvalidJob, match="expected a kind of notice, autoresponse, list"):
        write_with(kind="newsletter")
