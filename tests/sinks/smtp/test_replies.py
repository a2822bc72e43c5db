"""Replies as real servers send them: what they mean, and texts without addresses."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.sinks.smtp.replies import Reply, clean, make_reply, spellings, xtext

ANN = "Ann.Lee@there.example"


def reply(text: str, *, is_about_recipient: bool = True, step: str = "rcpt") -> Reply:
    """A reply to RCPT from its lines, as the server sends them."""
    lines = [line[4:].encode() for line in text.splitlines()]
    return make_reply(
        int(text[:3]),
        lines,
        step=step,
        hidden=spellings(["forms@here.example", ANN]),
        is_about_recipient=is_about_recipient,
    )


@pytest.mark.parametrize(
    ("text", "status", "what"),
    [
        (
            "550-5.1.1 The email account that you tried to reach does not exist. Please try\n"
            "550-5.1.1 double-checking the recipient's email address\n"
            "550 5.1.1  https://support.google.com/mail/?p=NoSuchUser a1-20020a0 - gsmtp",
            "5.1.1",
            "bad",
        ),
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found", "5.1.10", "bad"),
        ("554 delivery error: dd This user doesn't have a yahoo.com account", "", "bad"),
        ("550 5.1.1 <ann.lee@there.example>: Recipient address rejected", "5.1.1", "bad"),
        ("550 Unrouteable address", "", "bad"),
        ("550 Invalid recipient <ann.lee@there.example>", "", "bad"),
        ("511 sorry, no mailbox here by that name (#5.1.1 - chkuser)", "", ""),
        ("550 sorry, no mailbox here by that name. (#5.1.1)", "5.1.1", "bad"),
        ("550 5.1.8 <forms@here.example>: Sender address rejected: Domain not found", "5.1.8", ""),
        ("550 5.7.1 User unknown, blocked by policy", "5.7.1", "policy"),
        ("554 rejected", "", "policy"),
        ("550 5.7.30 Basic authentication is not supported", "5.7.30", "policy"),
        ("550 relay not permitted, recipient unknown here", "", "policy"),
        ("552 5.2.2 The email account that you tried to reach is over quota", "5.2.2", "full"),
        ("452 4.2.2 The recipient's inbox is out of storage space", "4.2.2", "full"),
        ("452 Insufficient system storage", "", ""),
        ("552 Mailbox full", "", "full"),
        ("452 4.5.3 Too many recipients", "4.5.3", "more"),
        ("552 too many recipients", "", "more"),
        ("450 4.2.1 The user is receiving mail at a rate that prevents", "4.2.1", "throttled"),
        ("421 4.7.28 Our system has detected an unusual rate", "4.7.28", "throttled policy"),
        ("451 4.7.1 Greylisting in action, please come back later", "4.7.1", "policy"),
        ("451 4.7.1 greylisted, try again later", "4.7.1", "policy"),
        ("421 4.7.0 greylisted, closing", "4.7.0", "policy throttled"),
        ("451 4.7.1 sent by a moderated list", "4.7.1", "policy"),
        ("450 too many connections from your IP, rate limited", "", "throttled"),
        ("250 5.1.1 odd", "", ""),  # the class does not fit the code
    ],
)
def test_what_a_reply_means(text: str, status: str, what: str) -> None:
    found = reply(text)
    flags = {
        "bad": found.is_address_bad,
        "full": found.is_full,
        "policy": found.is_policy,
        "more": found.is_too_many_recipients,
        "throttled": found.is_throttled,
    }
    assert found.status == status
    assert {name for name, is_set in flags.items() if is_set} == set(what.split())
    assert "ann" not in str(found).lower()


def test_a_reply_to_mail_never_speaks_against_a_recipient() -> None:
    found = reply("550 5.1.1 user unknown", is_about_recipient=False, step="mail")
    assert not found.is_address_bad


@pytest.mark.parametrize(
    "text",
    [
        "<ann.lee@there.example>: no",
        "ANN.LEE@THERE.EXAMPLE no",
        "no mailbox for ann.lee here",
        "bounces+ann.lee=there.example@here.example no",
        "ann.lee%40there.example no",
        "ann+2Elee@there.example",
        "an\x00n.lee@there.example",
        "ann\u200b.lee@there.example",
        '"ann lee"@there.example',
        "someone.else@there.example is full",
    ],
)
def test_texts_have_no_addresses(text: str) -> None:
    found = clean(text, spellings([ANN]))
    assert "ann" not in found.lower()
    assert "@" not in found


@given(st.text())
def test_texts_are_short_and_printable(text: str) -> None:
    found = clean(text, spellings([ANN]))
    assert len(found) <= 300
    assert found.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_make_a_reply(line: bytes) -> None:
    found = make_reply(550, [line, line], step="rcpt", hidden=spellings([ANN]))
    assert found.kind == "refused"
    assert str(found).isprintable()


def test_many_recipients_take_no_long_time() -> None:
    # Quadratic in the recipients, so each has to be cheap.
    hidden = spellings(f"Person.{number}@there.example" for number in range(100))
    start = time.process_time()
    for number in range(100):
        found = make_reply(250, [b"2.1.5 <person.%d@there.example> ok" % number], step="rcpt",
                           hidden=hidden)  # fmt: skip
        assert found.text == "<[…]> ok"
    assert time.process_time() - start < 1


def test_xtext() -> None:
    assert xtext("a+b=c d") == "a+2Bb+3Dc+20d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "250 Ok 0102018f0c4d7b2a-6f0d2a51-1b0e-4f5e-9a06-2d6b0f8a7c11-000000",
            "0102018f0c4d7b2a-6f0d2a51-1b0e-4f5e-9a06-2d6b0f8a7c11-000000",
        ),
        ("250 2.0.0 Ok: queued as 4XyZ1234567890abcdefghijk", None),
        ("250 2.0.0 OK  1700000000 a640c23a62f3a-abcdefabcdef1234.45 - gsmtp", None),
        ("250 Ok 4XyZ", None),
        ("250 2.6.0 <a@b.example> Queued mail for delivery", None),
    ],
)
def test_the_id_that_amazon_ses_gives_is_found(text: str, expected: str | None) -> None:
    assert reply(text, step="dot").given_id == expected
    assert reply(text, step="rcpt").given_id is None


@given(text=st.text("aAbB_. -éÉ1", max_size=12), word=st.text("ab_. -é1", min_size=1, max_size=3))
def test_a_hidden_text_is_removed_where_it_stands_as_a_word(text: str, word: str) -> None:
    expected = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "[…]", text, flags=re.IGNORECASE)
    assert clean(text, [word]) == " ".join(expected.split())
