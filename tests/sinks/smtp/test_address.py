"""Mailboxes: what is accepted, converted and refused."""

from __future__ import annotations

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.sinks.smtp.address import Mailbox, normal, parse_mailbox, without_tag
from tests.sinks.smtp.emails import LINE_ENDS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann@example.org", ("", "ann@example.org")),
        (" ann@Example.ORG ", ("", "ann@example.org")),
        ("<ann@example.org>", ("", "ann@example.org")),
        ("Ann <ann+forms@example.org>", ("Ann", "ann+forms@example.org")),
        ("O'Neil Ann <o'neil@example.org>", ("O'Neil Ann", "o'neil@example.org")),
        ("Doe, Ann <ann@example.org>", ("Doe, Ann", "ann@example.org")),
        ('"Doe, Ann" <ann@example.org>', ("Doe, Ann", "ann@example.org")),
        (r'"Ann \"A\" \\ Doe" <ann@example.org>', (r'Ann "A" \ Doe', "ann@example.org")),
        ('"a@evil.example" <ann@example.org>', ("a@evil.example", "ann@example.org")),
        ("Ann (Sales) <ann@example.org>", ("Ann (Sales)", "ann@example.org")),
        ("=?utf-8?q?J=C3=B6rg?= <j@example.org>", ("Jörg", "j@example.org")),
        ("=?utf-8?b?SsO2?= =?utf-8?q?rg?= <j@example.org>", ("Jörg", "j@example.org")),
        ("Ann   Doe <ann@example.org>", ("Ann Doe", "ann@example.org")),
        ("ann@exämple.com", ("", "ann@xn--exmple-cua.com")),
        ("ann@faß.de", ("", "ann@xn--fa-hia.de")),  # UTS 46, not IDNA 2003: fass.de is another
        ("ann@EXÄMPLE。com", ("", "ann@xn--exmple-cua.com")),
        ("jo\u0308rg@example.org", ("", "jörg@example.org")),
        ("пётр@пример.рф", ("", "пётр@xn--e1afmkfd.xn--p1ai")),
        ("root@localhost", ("", "root@localhost")),
        ("ann..doe@docomo.ne.jp", ("", '"ann..doe"@docomo.ne.jp')),
        ('"ann.doe."@docomo.ne.jp', ("", '"ann.doe."@docomo.ne.jp')),
        ('"ann"@example.org', ("", "ann@example.org")),
    ],
)
def test_a_mailbox_is_parsed(text: str, expected: tuple[str, str]) -> None:
    found = parse_mailbox(text)
    assert (found.name, found.address) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "ann", "@example.org", "ann@", "ann@.org", "ann@a..b", "<>", ">", "<ann>"),
        # Two addresses, of which one would silently get nothing.
        *("a@example.org, b@example.org", "a@example.org b@example.org", "a@x.y, Ann <b@x.y>"),
        *("<a@x.y> <b@x.y>", "a@x.y <b@x.y>", "Ann <a@x.y>, <b@x.y>", "Ann <<a@x.y>>"),
        *("ann@example.org (Ann)", "Ann: a@x.y;", "ann@example.org>", "ann@<example.org>"),
        # Quoted local parts, whose content is another address for careless programs.
        *('"a@x.y> RCPT TO:<b"@x.y', '"a b"@x.y', r'"a\"b"@x.y', '""@x.y', '"a@evil"@x.y'),
        # Encoded words, routes of relays, look-alikes: "splitting the email atom".
        *("=?utf-8?q?a=40evil.example?=@x.y", "a=?x@x.y", "a%evil.example@x.y"),
        *("evil.example!a@x.y", "@evil.example:a@x.y", "a\uff20evil.example@x.y", "a\ufe6b@x.y"),
        *("ann@[127.0.0.1]", "ann@127.0.0.1", "ann@[IPv6:::1]", "ann@x.y:25", "ann@x_y/.z"),
        *("ann@xn--a.example", "ann@xn--\u00e4.de", "ann@exa mple.org", "ann@-\u200d.org"),
        *("a\u200bnn@x.y", "a\u202enn@x.y", "a\u00a0b@x.y", "a\ud800@x.y", "a\ue000@x.y"),
        *("a" * 65 + "@x.y", "ö" * 33 + "@x.y", "a" * 5000 + "@x.y", "a@" + "b" * 64 + ".de"),
        "a@" + ".".join(["b" * 63] * 4) + ".de",
        "a" * 64 + "@" + ".".join(["b" * 47] * 4),
        "a" * 400 + " <a@x.y>",
    ],
)
def test_a_text_that_is_no_single_mailbox_is_refused(text: str) -> None:
    with pytest.raises(InvalidJob, match="expected") as caught:
        parse_mailbox(text)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize("end", [*LINE_ENDS, "\0", "\t", "\x1b", "\x7f", "\x9b"])
@pytest.mark.parametrize(
    "text", ["A{}nn <a@x.y>", '"A{}nn" <a@x.y>', "a{}b@x.y", "a@x{}.y", "a@x.y{}", "{}a@x.y"]
)
def test_control_characters_and_line_separators_are_refused(text: str, end: str) -> None:
    with pytest.raises(InvalidJob):
        parse_mailbox(text.format(end))


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?Ann=0D=0ABcc=3A_evil=40x.y?=",
        "=?utf-8?b?QW5uCkJjYzogZXZpbEB4Lnk=?=",
        "=?UTF-8*en?Q?=0A?=",
        # Decoded twice, as careless programs do.
        "=?utf-8?q?=3D=3Futf-8=3Fq=3F=0A=3F=3D?=",
        "=?utf-7?q?+AAo-?=",
        "=?utf-16-le?q?=0A=00?=",
        "=?iso-8859-1?q?=85?=",
        "x=?utf-8?q?=E2=80=A8?=y",
    ],
)
def test_encoded_line_ends_in_a_name_are_refused(name: str) -> None:
    with pytest.raises(InvalidJob, match=r"got U\+"):
        parse_mailbox(f"{name} <a@x.y>")


@pytest.mark.parametrize(
    ("name", "local", "domain"),
    [
        ("Ann\r\nBcc: evil@x.y", "ann", "x.y"),
        ("=?utf-8?q?Ann?=", "ann", "x.y"),
        ("", "ann>\r\nRCPT TO:<evil", "x.y"),
        ("", "jo\u0308rg", "x.y"),
        ("", "a..b", "x.y"),
        ("", "ann", "X.y"),
        ("", "ann", "exämple.com"),
        ("", "ann", "x.y\r\nDATA"),
        ("", "a" * 64, ".".join(["b" * 47] * 4)),
    ],
)
def test_a_mailbox_cannot_be_made_without_the_checks(name: str, local: str, domain: str) -> None:
    with pytest.raises(InvalidJob):
        Mailbox(name, local, domain)


def test_an_address_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidJob, match="got int"):
        parse_mailbox(5)


def test_only_a_local_part_that_is_not_ascii_needs_smtputf8() -> None:
    assert parse_mailbox("jörg@example.org").needs_smtputf8
    assert not parse_mailbox("Jörg <jorg@exämple.com>").needs_smtputf8


def test_the_repr_has_neither_name_nor_local_part() -> None:
    assert repr(parse_mailbox("Ann <ann@example.org>")) == "Mailbox(domain='example.org')"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ann.Doe@Example.ORG", "ann.doe@example.org"),
        ("JO\u0308RG@EXÄMPLE.com", "jörg@xn--exmple-cua.com"),
        ("ann@xn--exmple-cua.com", "ann@xn--exmple-cua.com"),
        ('"ann"@example.org', "ann@example.org"),
    ],
)
def test_addresses_are_compared_in_one_spelling(address: str, expected: str) -> None:
    assert normal(address) == normal(expected) == expected


@pytest.mark.parametrize("address", ["Ann <ann@example.org>", "<ann@example.org>", "ann", ""])
def test_only_an_address_has_a_normal_spelling(address: str) -> None:
    with pytest.raises(InvalidJob):
        normal(address)


@pytest.mark.parametrize(
    "local",
    [
        *("noreply", "no-reply", "No_Reply", "no.reply", "donotreply", "do-not-reply"),
        *("noreply+form1", "no-reply-2", "shop-noreply", "mailer-daemon", "MAILER-DAEMON"),
        *("postmaster", "bounce", "bounces+123", "bounces-1-2", "bounce-x", "list-bounces"),
        *("owner-list", "list-request", "nobody", "daemon", "prvs=1=ann", "SRS0=x=y=z=ann"),
    ],
)
def test_mailboxes_of_programs_are_known(local: str) -> None:
    assert parse_mailbox(f"{local}@example.org").is_automatic


@pytest.mark.parametrize(
    "local",
    [
        *("ann", "nora", "replyann", "norep", "reply", "bouncer", "trampoline.bouncer", "master"),
        *("noah.reply", "info", "support", "shop-owner", "requests", "daemonica", "kanoreply"),
    ],
)
def test_mailboxes_of_people_are_not_taken_for_programs(local: str) -> None:
    assert not parse_mailbox(f"{local}@example.org").is_automatic


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Ann@Example.org", "ann@example.org"),
        ("ann+tag@example.org", "ann@example.org"),
        ("ann+a+b@example.org", "ann@example.org"),
        ("+tag@example.org", "+tag@example.org"),
        ("a.n.n@example.org", "a.n.n@example.org"),
        ("A.n.n+tag@googlemail.com", "ann@gmail.com"),
        ('"a..b"@gmail.com', "ab@gmail.com"),
        ("ann@gmail.com.example", "ann@gmail.com.example"),
    ],
)
def test_tags_and_dots_of_gmail_are_dropped(address: str, expected: str) -> None:
    assert without_tag(address) == expected
