"""For any text in any field, the message reads back the same, or InvalidJob is raised."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from formrelay.core.errors import InvalidJob
from formrelay.sinks.smtp.address import Mailbox, normal, parse_mailbox
from formrelay.sinks.smtp.encoded_words import decode, encode, header_text
from formrelay.sinks.smtp.message import Attachment, Email, write
from tests.sinks.smtp.emails import DATE, addresses_of, assert_sendable, names, parse, text_of

#: Pieces of which attacks are made, and any other text.
PIECES = [
    *("=?utf-8?q?", "=?UTF-8?B?", "?=", "=0A", "Cg==", "\r\n", "\n", "Bcc: ", "evil@x.y", "<", ">"),
    *('"', "\\", ",", ";", ":", "(", ")", "@", " ", "  ", "=?", "?", "_", "=", "\u2028", "ö", "🎉"),
    *("\u0308", "\u202e", "\u200d", "--=_", "'", "%41", "*", ".", "..", "a" * 90, "xn--", "\x85"),
]
texts = st.one_of(
    st.text(max_size=120),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join),
)
harmless = st.text(
    st.characters(exclude_categories=["C"], exclude_characters="\u2028\u2029"), max_size=250
)
EXPECTED = ["Date", "From", "To", "Cc", "Reply-To", "Subject", "Message-ID"]
MORE = ["List-Unsubscribe", "List-Unsubscribe-Post", "MIME-Version", "Content-Type"]


def made(**values: Any) -> Email:
    """An e-mail of texts that nobody has checked."""
    sender = parse_mailbox(values.get("sender", "a@x.y"))
    mailboxes = [parse_mailbox(each) for each in values.get("mailboxes", ["a@x.y"])]
    return Email(
        id=values.get("id", "job-1"),
        date=DATE,
        sender=sender,
        to=mailboxes,
        cc=mailboxes,
        bcc=[parse_mailbox("hidden@secret.example")],
        reply_to=mailboxes,
        subject=values.get("subject", "Hi"),
        text=values.get("text", "Hi"),
        html=values.get("html"),
        attachments=[Attachment(*each) for each in values.get("attachments", ())],
        unsubscribe_url=values.get("url", "https://x.y/u"),
    )


def check(email: Email) -> None:
    """Check that the bytes mean the e-mail, and nothing else."""
    data = write(email)
    assert_sendable(data, is_utf8=email.needs_smtputf8)
    extra = [] if len(names(data)) == 11 else ["Content-Transfer-Encoding"]
    assert names(data) == EXPECTED + MORE + extra
    assert b"hidden" not in data.partition(b"\r\n\r\n")[0]
    assert text_of(data, "Subject") == {header_text(email.subject, "", max_characters=10_000)}
    for name, boxes in (("From", [email.sender]), ("To", email.to), ("Cc", email.cc)):
        assert addresses_of(data, name) == [(box.name, box.address) for box in boxes]
    filenames = [part.get_filename() for part in parse(data).walk() if part.get_filename()]
    assert filenames == [
        header_text(each.filename, "", max_characters=10_000) for each in email.attachments
    ]
    assert write(email) == data


@given(subject=texts, text=texts, html=st.none() | texts)
@example(subject="=?utf-8?q?Hi=0ABcc=3A_evil=40x.y?=", text="", html=None)
def test_texts(subject: str, text: str, html: str | None) -> None:
    with suppress(InvalidJob):
        check(made(subject=subject, text=text, html=html))


@given(sender=texts, to=st.lists(texts, min_size=1, max_size=3))
def test_whole_mailboxes(sender: str, to: list[str]) -> None:
    with suppress(InvalidJob):
        check(made(sender=sender, mailboxes=["ann@x.y", *to]))


@given(name=texts, local=texts, domain=texts, parts=st.lists(st.sampled_from("nld"), max_size=3))
def test_parts_of_mailboxes(name: str, local: str, domain: str, parts: list[str]) -> None:
    chosen = name if "n" in parts else "Ann", local if "l" in parts else "a"
    with suppress(InvalidJob):
        mailbox = f"{chosen[0]} <{chosen[1]}@{domain if 'd' in parts else 'x.y'}>"
        check(made(sender=mailbox, mailboxes=[mailbox, "b@x.y", mailbox]))


@given(filename=texts, media_type=texts, is_name=st.booleans())
def test_attachments(filename: str, media_type: str, is_name: bool) -> None:
    file = (filename, b"x", "image/png") if is_name else ("a.pdf", b"x", media_type)
    with suppress(InvalidJob):
        check(made(html="<p>", attachments=[file]))


@given(job_id=texts, url=texts)
def test_ids_and_urls(job_id: str, url: str) -> None:
    with suppress(InvalidJob):
        check(made(id=job_id))
    with suppress(InvalidJob):
        check(made(url=f"https://x.y/{url}"))


@given(subject=harmless, name=harmless)
def test_harmless_texts_are_accepted(subject: str, name: str) -> None:
    assume(subject.strip())
    name = header_text(name, "", max_characters=300)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    email = made(subject=subject, sender=f'"{escaped}" <a@x.y>')
    assert email.sender == Mailbox(name, "a", "x.y")
    check(email)


@given(text=st.text(max_size=300).filter(str.isprintable), column=st.integers(1, 30))
def test_encoded_words_are_short_and_decoded_to_the_text(text: str, column: int) -> None:
    words = encode(text, column=column)
    assert len(words[0]) <= 76 - column
    assert max(map(len, words)) <= 75
    if "=?" not in text:
        assert decode(" ".join(words)) == text


@given(text=texts)
def test_a_mailbox_parses_to_itself_and_its_spelling_is_stable(text: str) -> None:
    with suppress(InvalidJob):
        found = parse_mailbox(text)
        assert parse_mailbox(found.address) == Mailbox("", found.local, found.domain)
        assert normal(normal(found.address)) == normal(found.address)
