"""Mailboxes: a display name and an address, checked so that no mail program reads another one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...core.errors import InvalidJob
from ...core.hosts import InvalidHost, ascii_host
from .encoded_words import header_text

MAX_NAME = 300
#: Octets of a local part, and of a whole address (RFC 5321, sections 4.5.3.1.1 and .3).
_MAX_LOCAL = 64
_MAX_ADDRESS = 254

# RFC 5322 also allows "%" and "!", by which some relays route to another host.
_ATOM = r"[A-Za-z0-9#$&'*+/=?^_`{|}~\u0080-\U0010ffff-]"
_DOT_ATOM = re.compile(rf"{_ATOM}+(?:\.{_ATOM}+)*")
_DOTS_ANYWHERE = re.compile(rf"(?:{_ATOM}|\.)+")
#: Controls, format characters, surrogates, private use, separators.
_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp"})
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?[0-9]+")

#: Domains of Gmail, which ignores dots before ``@``.
_GMAIL = frozenset({"gmail.com", "googlemail.com"})
_AUTOMATIC = re.compile(
    r"(?:.*[-_.+])?(?:no|do[-_.]?not|dont|never)[-_.]?reply(?:[-_.+0-9].*)?"
    r"|(?:mailer|mailer[-_.]?daemon|daemon|postmaster|nobody|uucp|listserv|majordomo)(?:[+].*)?"
    r"|bounces?(?:[-_.+=0-9].*)?|.*[-_.+]bounces?(?:[-_.+=0-9].*)?"
    r"|owner-.*|.*-(?:request|relay)|(?:prvs|srs[01])[-+=].*"
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name and an address; always valid.

    Its ``repr`` has only the domain, because names and addresses must not be logged.

    Attributes:
        name: display name; may be empty.
        local: part before ``@`` in Unicode NFC; in quotes only if its dots need them.
        domain: part after ``@`` in ASCII (IDNA by UTS 46) and lower case.

    Raises:
        InvalidJob: an attribute is not in this form. Use :func:`parse_mailbox` for input.
    """

    name: str = field(repr=False)
    local: str = field(repr=False)
    domain: str

    def __post_init__(self) -> None:
        if self.name != header_text(self.name, "a display name", max_characters=MAX_NAME):
            raise InvalidJob("expected a display name as parse_mailbox() returns it, got another")
        if (self.local, self.domain) != (_check_local(self.local), _check_domain(self.domain)):
            raise InvalidJob("expected an address as parse_mailbox() returns it, got another")
        if len(self.address.encode()) > _MAX_ADDRESS:
            raise InvalidJob(f"expected an address of at most {_MAX_ADDRESS} bytes: shorten it")

    @property
    def address(self) -> str:
        """The address for MAIL and RCPT."""
        return f"{self.local}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only servers with SMTPUTF8 can take the address: its local part is not ASCII."""
        return not self.local.isascii()

    @property
    def is_automatic(self) -> bool:
        """Whether a program reads the mailbox: autoresponses must not go there (RFC 3834)."""
        return _AUTOMATIC.fullmatch(self.local.lower()) is not None


def parse_mailbox(text: str) -> Mailbox:
    """Parse ``a@b.example``, ``Ann <a@b.example>`` or ``"Doe, Ann" <a@b.example>``.

    Encoded words in the name are decoded. The domain is converted to ASCII, the local part to
    Unicode NFC.

    Raises:
        InvalidJob: the text is not a single mailbox, or its name, local part or domain is invalid.
            The message does not quote the text.
    """
    if not isinstance(text, str):
        raise InvalidJob(f"expected an address to be a text, got {type(text).__name__}")
    name, bracket, address = "", "", text.strip(" ")
    if address.endswith(">"):
        name, bracket, address = address[:-1].rpartition("<")
        if not bracket:
            raise InvalidJob("expected an address such as 'Ann <ann@example.com>', got '>' alone")
    local, at, domain = address.rpartition("@")
    if not at:
        raise InvalidJob("expected an address such as 'ann@example.com', got one without '@'")
    return Mailbox(_parse_name(name), _check_local(local), _check_domain(domain))


def normal(address: str) -> str:
    """Convert an address to the spelling that limits and suppressions compare, in lower case.

    Args:
        address: without a display name.

    Raises:
        InvalidJob: the address is invalid, or has a display name.
    """
    if address.endswith(">"):
        raise InvalidJob("expected an address such as 'ann@example.com', got one with '<' and '>'")
    mailbox = parse_mailbox(address)
    return f"{unicodedata.normalize('NFC', mailbox.local.lower())}@{mailbox.domain}"


def without_tag(address: str) -> str:
    """Convert an address as :func:`normal` does, and drop what leads to the same mailbox.

    This is a tag behind ``+`` (RFC 5233) and, at Gmail, any dot. For limits alone: at a few other
    providers, two people may have these addresses.

    Raises:
        InvalidJob: see :func:`normal`.
    """
    local, _, domain = normal(address).rpartition("@")
    plain = local.strip('"').partition("+")[0]
    if domain in _GMAIL:
        plain, domain = plain.replace(".", ""), "gmail.com"
    return f"{plain or local}@{domain}"


def each_once(mailboxes: Iterable[Mailbox]) -> list[Mailbox]:
    """The mailboxes without repeated addresses; the first of an address stays."""
    found: dict[str, Mailbox] = {}
    for mailbox in mailboxes:
        found.setdefault(normal(mailbox.address), mailbox)
    return [*found.values()]


def _parse_name(text: str) -> str:
    text = text.strip(" ")
    if quoted := _QUOTED_NAME.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    elif any(character in text for character in "@<>"):
        raise InvalidJob(
            "expected a single address, got '@', '<' or '>' in a display name: "
            "pass several addresses as a list, and put such a name into double quotes"
        )
    return header_text(text, "a display name", max_characters=MAX_NAME)


def _check_local(local: str) -> str:
    """The local part in NFC, in quotes if its dots need them.

    Raises:
        InvalidJob: it is empty, too long, or has a character that is not allowed.
    """
    if len(local) > 4 * _MAX_LOCAL:  # limits the work
        raise InvalidJob(f"expected at most {_MAX_LOCAL} bytes before '@': shorten the address")
    text = unicodedata.normalize("NFC", local)
    if len(text) > 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not text:
        raise InvalidJob("expected an address with a name before '@', got none")
    if not _DOTS_ANYWHERE.fullmatch(text) or not all(map(_is_allowed, text)):
        raise InvalidJob(
            "expected only letters, digits, dots and #$&'*+-/=?^_`{|}~ before '@' of an address, "
            "got another character: correct the address"
        )
    # Some programs decode encoded words even there, and then see another domain.
    if "=?" in text:
        raise InvalidJob("expected no '=?' before '@' of an address: correct the address")
    # Addresses with two dots in a row exist at Docomo. They need quotes (RFC 5321, 4.1.2).
    text = text if _DOT_ATOM.fullmatch(text) else f'"{text}"'
    if len(text.encode()) > _MAX_LOCAL:
        raise InvalidJob(f"expected at most {_MAX_LOCAL} bytes before '@': shorten the address")
    return text


def _is_allowed(character: str) -> bool:
    """Whether a local part may have a character.

    Not if it looks like ASCII that it may not have: U+FF20 becomes ``@`` in a program that
    normalises to NFKC.
    """
    if character.isascii():
        return True
    folded = unicodedata.normalize("NFKC", character)
    return unicodedata.category(character) not in _BAD_CATEGORIES and not (
        re.search(r"[\x00-\x7f]", folded) and not re.fullmatch(r"[A-Za-z0-9]+", folded)
    )


def _check_domain(domain: str) -> str:
    """The domain in ASCII.

    Raises:
        InvalidJob: it is not a host name.
    """
    try:
        host = ascii_host(domain)
    except InvalidHost as error:
        raise InvalidJob(f"in the domain of an address: {error}") from None
    if _ENDS_IN_NUMBER.fullmatch(host):
        raise InvalidJob("expected a domain after '@' of an address, got an IP address")
    return host
