"""Bodies, attachments, structure; and that the bytes are the same each time."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.message import EmailMessage, Message

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.sinks.smtp.message import Attachment, write
from tests.sinks.smtp.emails import assert_sendable, make, names, parse, write_with

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
LOGO = Attachment("logo.png", PNG, "image/png")
PDF = Attachment("report.pdf", b"%PDF-1.7\n" * 50, "application/pdf")


def structure(part: Message) -> object:
    """Types of the parts: a text, or a type and the structure of its children."""
    if not part.is_multipart():
        return part.get_content_type()
    return part.get_content_type(), [structure(child) for child in part.get_payload()]


def attachment_of(attachment: Attachment) -> EmailMessage:
    """The part of an attachment, as the newer policy reads it."""
    data = write_with(attachments=[attachment], html="<p>")
    assert_sendable(data)
    older = [part.get_filename() for part in message_from_bytes(data).walk()]
    (found,) = [part for part in parse(data).walk() if part.get_filename()]
    assert found.get_filename() in older
    return found


BOTH = ("multipart/alternative", ["text/plain", "text/html"])


@pytest.mark.parametrize(
    ("html", "attachments", "expected"),
    [
        (None, [], "text/plain"),
        ("<p>", [], BOTH),
        (None, [PDF], ("multipart/mixed", ["text/plain", "application/pdf"])),
        ("<p>", [PDF], ("multipart/mixed", [BOTH, "application/pdf"])),
        ("<p>", [PDF, LOGO], ("multipart/mixed", [BOTH, "application/pdf", "image/png"])),
    ],
)
def test_alternatives_stand_beside_attachments(
    html: str | None, attachments: list[Attachment], expected: object
) -> None:
    data = write_with(html=html, attachments=attachments)
    assert_sendable(data)
    assert structure(parse(data)) == expected
    found = [part.get_content() for part in parse(data).walk() if part.get_filename()]
    assert sorted(found) == sorted(each.content for each in attachments)


BODIES = [
    "",
    "\n",
    "Hello",
    "a\rb\nc\r\nd\n\n\n",
    "From me\nFrom " + "x" * 70 + "\nFrom From From " + "x" * 60 + "\n>From",
    ".\n..\n.x\n",
    "trailing space \ntrailing tab\t\n \n",
    "=\n==\n=41 =?utf-8?q?x?=",
    "x" * 5000,
    "word " * 2000,
    "ö" * 5000,
    "日本語\n" * 300,
    "\0\x01\x0b\x0c\x1c\x85\u2028\u2029\x7f\ufeff",
    "--=_x\n--\n--=_x--",
    "Subject: x\n\nBcc: evil@x.y",
]


@pytest.mark.parametrize("text", BODIES)
def test_bodies_are_7_bit_and_read_back(text: str) -> None:
    data = write_with(text=text, html=text)
    assert_sendable(data)
    expected = re.sub("\r\n|\r|\n", "\r\n", text.rstrip("\r\n") + "\n").encode()
    parts = [part for part in parse(data).walk() if not part.is_multipart()]
    assert [part.get_payload(decode=True) for part in parts] == [expected, expected]
    assert [part["Content-Transfer-Encoding"] for part in parts] == ["quoted-printable"] * 2 or [
        part["Content-Transfer-Encoding"] for part in parts
    ] == ["base64"] * 2
    body = data.partition(b"\r\n\r\n")[2].split(b"\r\n")
    assert max(map(len, body)) <= 76
    assert not any(line.startswith(b"From ") or line == b"." for line in body)
    single = write_with(text=text)
    assert_sendable(single)
    assert parse(single).get_payload(decode=True) == expected


def test_the_shorter_encoding_is_used() -> None:
    assert parse(write_with(text="Grüße aus Köln, and thank you for your message. " * 9))[
        "Content-Transfer-Encoding"
    ] == ("quoted-printable")
    assert parse(write_with(text="Привет" * 20))["Content-Transfer-Encoding"] == "base64"


@pytest.mark.parametrize("field", ["text", "html"])
def test_half_of_a_surrogate_pair_in_a_body_is_refused(field: str) -> None:
    with pytest.raises(InvalidJob, match="surrogate"):
        write_with(**{field: "a\ud800b"})
    with pytest.raises(InvalidJob, match="to be a text"):
        write_with(**{field: 5})


FILENAMES = [
    "report.pdf",
    "Quarterly report (1).pdf",
    "Übersicht.pdf",
    "日本語" * 28 + ".p",
    'a"b;c=d.pdf',
    "a'b%41.pdf",
    "=?x.pdf",
    ".",
    "a\u00a0b",
    "🎉.png",
    "x" * 255,
    "name*=utf-8''x.pdf",
]


@pytest.mark.parametrize("filename", FILENAMES)
def test_file_names_read_back(filename: str) -> None:
    found = attachment_of(Attachment(filename, b"x", "application/pdf"))
    assert found.get_filename() == filename
    assert found["Content-Type"].params["name"] == filename
    assert found.get_content_disposition() == "attachment"


def test_a_long_file_name_has_no_continuations_and_no_encoded_words() -> None:
    data = write_with(attachments=[Attachment("日" * 85, b"x", "application/pdf")])
    assert b"\r\n filename*=UTF-8''" + b"%E6%97%A5" * 85 + b"\r\n" in data
    assert b"*0" not in data
    assert b"=?" not in data


@pytest.mark.parametrize(
    "filename",
    [
        *("", " ", "a/b.pdf", "..\\b.pdf", "x" * 256, "日" * 86, "fdp\u202eexe.pdf", "a\u2067b"),
        *('"a"', "<a>", None),
    ],
)
def test_other_file_names_are_refused(filename: str) -> None:
    with pytest.raises(InvalidJob, match="expected a file name"):
        write_with(attachments=[Attachment(filename, b"x", "application/pdf")])


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("Application/PDF", "application/pdf"),
        ("application/vnd.ms-excel.sheet.binary.macroEnabled.12", None),
        ("image/svg+xml", "image/svg+xml"),
        ("message/rfc822", "application/octet-stream"),
        ("multipart/mixed", "application/octet-stream"),
    ],
)
def test_media_types_of_attachments(media_type: str, expected: str | None) -> None:
    found = attachment_of(Attachment("a.bin", PNG, media_type))
    assert found.get_content_type() == (expected or media_type.lower())
    assert found.get_payload(decode=True) == PNG


@pytest.mark.parametrize(
    "media_type",
    ["", "pdf", "a/b/c", "text/html; charset=x", "text /html", "text/ht ml", "a/" + "b" * 200],
)
def test_other_media_types_are_refused(media_type: str) -> None:
    with pytest.raises(InvalidJob, match="type/subtype"):
        write_with(attachments=[Attachment("a", b"x", media_type)])


@pytest.mark.parametrize(
    ("content", "charset"), [("ä;b\n".encode(), "utf-8"), ("ä;b\n".encode("latin1"), None)]
)
def test_a_text_attachment_keeps_its_bytes_and_says_its_charset(
    content: bytes, charset: str | None
) -> None:
    found = attachment_of(Attachment("a.csv", content, "text/csv"))
    assert found.get_content_charset() == charset
    assert found.get_payload(decode=True) == content


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 57, b"x" * 58, b"\r\n.\r\n", PNG * 100])
def test_attachments_keep_their_bytes(content: bytes) -> None:
    found = attachment_of(Attachment("a.bin", content, "application/octet-stream"))
    assert found.get_payload(decode=True) == content


def test_the_bytes_are_the_same_on_every_call() -> None:
    def fresh() -> bytes:
        return write_with(html="<p>ö", attachments=[PDF, LOGO], kind="autoresponse")

    assert fresh() == fresh()
    # Only the id and the date vary the bytes of the same content.
    assert write_with(id="job-2") == fresh_with_id(write_with(), b"job-1", b"job-2")


def fresh_with_id(data: bytes, old: bytes, new: bytes) -> bytes:
    return data.replace(b"<" + old + b"@", b"<" + new + b"@")


def test_boundaries_differ_between_jobs_and_never_occur_in_a_body() -> None:
    data = write_with(html="<p>", attachments=[PDF, LOGO], text="=_" * 50)
    boundaries = re.findall(rb'boundary="(.+?)"', data)
    assert len({*boundaries}) == 2
    assert all(boundary.startswith(b"=_") for boundary in boundaries)
    assert not {*boundaries} & {*re.findall(rb'boundary="(.+?)"', write_with(id="2", html="<p>"))}
    for part in message_from_bytes(data, policy=policy.compat32).walk():
        if not part.is_multipart():
            assert "=_" not in part.get_payload()


def test_the_repr_of_an_e_mail_has_no_names_addresses_and_texts() -> None:
    email = make(text="secret", html="secret", subject="secret", attachments=[PDF, LOGO])
    for word in ("secret", "ann", "Ann", "forms@", "report", "PNG"):
        assert word not in repr(email)


def test_a_message_has_each_header_once() -> None:
    data = write(make(cc=["b@x.y"], reply_to=["c@x.y"], html="<p>", attachments=[PDF]))
    assert len({*names(data)}) == len(names(data)) == 9
