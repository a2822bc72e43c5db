"""Replies of an SMTP server: their meaning for each recipient, and texts fit for errors.

Servers repeat addresses in their replies ("<ann@example.org>: user unknown") and may send
anything, terminal escapes included. A reply's text is cleaned when the reply is made, so nothing
that reads it later can leak an address.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ...core.errors import SinkTransient

#: The step of the transaction that a reply decided. ``check``: refused here, before it was sent.
#: ``lost``: the connection ended before the server decided.
Step = Literal["mail", "rcpt", "data", "dot", "check", "lost"]
ReplyKind = Literal["accepted", "deferred", "refused"]

_MARK = "[…]"
_MAX_TEXT = 300
#: Shorter local parts are not removed from texts: they say nothing and occur in every word.
_SHORTEST = 3
#: Addresses, also within <>, encoded (=40, %40) and in VERP form (ann=example.org@…).
_ADDRESS = re.compile(r'"[^"]*"@[^\s<>()\[\],;]+|[^\s<>()\[\],;:"]*(?:@|=40|%40)[^\s<>()\[\],;"]+')
#: Text that is its own xtext.
_PLAIN = re.compile(r"[!-*,-<>-~]*\Z")
_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=[\s:;,)-]|\Z)")
#: qmail puts the status at the end: "no mailbox here by that name. (#5.1.1)".
_STATUS_AT_END = re.compile(r"\(#([245])\.(\d{1,3})\.(\d{1,3})\)")
#: The recipient does not exist (RFC 3463, section 3.2; 10: RFC 7505, the domain takes no mail).
#: 5.1.7 and 5.1.8 are about the sender.
_BAD_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
#: What servers without enhanced status codes say (Exim, old Exchange, qmail).
_NO_SUCH_USER = re.compile(
    r"(?:user|recipient|mailbox|address|account)\b.{0,40}\b(?:unknown|not found|does ?n[o']t exist"
    r"|not exist)|(?:unknown|no such|unrouteable|invalid|unroutable)\b.{0,20}\b"
    r"(?:user|recipient|mailbox|address|account)|no mailbox here"
    r"|does ?n[o']t have an? .{0,40}account",
    re.IGNORECASE,
)
_BLOCKED = re.compile(r"spam|block|policy|reputation|listed|denied|relay", re.IGNORECASE)
_THROTTLED = frozenset({"4.7.28", "4.7.0", "4.7.1", "4.7.232", "4.2.1", "4.3.2", "4.4.5"})
#: Longer than queue ids of other servers, which are of no use.
_GIVEN_ID = re.compile(r"ok:? <?([A-Za-z0-9][A-Za-z0-9.+=_-]{23,199})>?\Z", re.IGNORECASE)
_TOO_MUCH = re.compile(
    r"too (?:many|much|fast)|\brat(?:e|ed|ing)\b|throttl|limit|try again later|quota", re.IGNORECASE
)
#: Greylisting defers each new recipient: the server does not ask for fewer messages.
_GREYLISTED = re.compile(r"gr[ae]y[ -]?list", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply that decided about a recipient.

    Attributes:
        code: three digits (RFC 5321, section 4.2).
        status: enhanced status code, ``5.1.1``; empty if the server sent none.
        text: cleaned: no control characters, no addresses, at most 300 characters.
        step: the command that was answered.
        is_about_recipient: the reply is about this recipient, not about the message or the sender.
    """

    code: int
    status: str
    text: str
    step: Step = "rcpt"
    is_about_recipient: bool = False

    @property
    def kind(self) -> ReplyKind:
        if 200 <= self.code < 300:
            return "accepted"
        if 400 <= self.code < 500 or self.is_too_many_recipients:
            return "deferred"
        return "refused"

    @property
    def is_too_many_recipients(self) -> bool:
        """The server takes this recipient, but not in this transaction.

        RFC 5321, section 4.5.3.1.10: the code should be 452; some servers say 552.
        """
        if self.step != "rcpt":
            return False
        if self.status in ("4.5.3", "5.5.3"):
            return self.code in (450, 451, 452, 552)
        return self.code in (452, 552) and not self.status and "recipients" in self.text.lower()

    @property
    def is_address_bad(self) -> bool:
        """Whether the recipient does not exist, so that no further e-mail should be sent to it."""
        if self.kind != "refused" or not self.is_about_recipient:
            return False
        if self.status and self.status not in ("5.0.0", "5.5.0"):
            return self.status in _BAD_ADDRESS
        is_refused = self.code in (550, 551, 553, 554)
        return is_refused and bool(_NO_SUCH_USER.search(self.text)) and not self.is_policy

    @property
    def is_full(self) -> bool:
        """Whether the mailbox of the recipient is full."""
        if not self.is_about_recipient or self.is_too_many_recipients:
            return False
        return self.status in ("4.2.2", "5.2.2") or (self.code == 552 and not self.status)

    @property
    def is_policy(self) -> bool:
        """Refused or deferred by policy (spam, authentication, relaying), not for an address."""
        if self.kind == "accepted":
            return False
        if self.status:
            return self.status.split(".")[1] == "7"
        is_plain_554 = self.code == 554 and not _NO_SUCH_USER.search(self.text)
        return is_plain_554 or bool(_BLOCKED.search(self.text))

    @property
    def is_throttled(self) -> bool:
        """Whether the server asks for fewer messages."""
        is_other = self.is_full or self.is_too_many_recipients or self.step == "lost"
        is_other |= self.code != 421 and bool(_GREYLISTED.search(self.text))
        if self.kind != "deferred" or is_other:
            return False
        if self.code == 421:
            return True
        return (not self.status or self.status in _THROTTLED) and bool(_TOO_MUCH.search(self.text))

    @property
    def given_id(self) -> str | None:
        """The id that the server gave the message, if the reply has nothing else.

        Amazon SES answers ``250 Ok ID``, and replaces the Message-ID by one with this id.
        """
        found = _GIVEN_ID.match(self.text) if self.step == "dot" and self.code == 250 else None
        return None if found is None else found[1]

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.status, self.text)))


class UnknownOutcome(SinkTransient):
    """The connection ended after the end of the message was sent, before the server answered.

    The server may have accepted the message.

    Attributes:
        replies: one for each recipient, in order; None for a recipient whose outcome is unknown.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        replies: Sequence[Reply | None] = (),
        code: int | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.replies = tuple(replies)


def make_reply(
    code: int,
    lines: Sequence[bytes],
    *,
    step: Step,
    hidden: Iterable[str] = (),
    is_about_recipient: bool = False,
) -> Reply:
    """A reply of the server.

    Args:
        lines: the texts after the code, one for each line of the reply.
        hidden: see :func:`spellings`; removed from the text.
        is_about_recipient: see :class:`Reply`.
    """
    status, texts = "", []
    for line in lines:
        text = line.decode("utf-8", "replace").strip()
        if found := _STATUS.match(text):
            if found[1] == str(code)[0]:
                status = status or _joined(found)
            text = text[found.end() :].lstrip(" :;,-")
        elif (found := _STATUS_AT_END.search(text)) and found[1] == str(code)[0]:
            status = status or _joined(found)
        texts.append(text)
    return Reply(code, status, clean(" ".join(texts), hidden), step, is_about_recipient)


def clean(text: str, hidden: Iterable[str] = ()) -> str:
    """Make a server's text fit for errors and logs.

    Removes control characters, everything that looks like an address, and ``hidden``
    (:func:`spellings`). Cuts it to 300 characters.
    """
    # Cut first, to limit the work, and again afterwards. Characters that are not printable are
    # removed before the search, since "ann\x00@example.org" should be found too.
    text = text[: 4 * _MAX_TEXT]
    if not text.isprintable():
        text = "".join(map(_visible, text))
    lowered = text.lower()
    found = [spelling for spelling in hidden if spelling in lowered]
    for spelling in sorted(found, key=len, reverse=True):
        text = _without_word(text, spelling)
    text = " ".join(_ADDRESS.sub(_MARK, text).split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _without_word(text: str, word: str) -> str:
    """Replace a word, given in lower case, with a mark.

    Not with a regular expression for each word: Python would keep it, and with it the address.
    """
    lowered = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    kept, after, search = [], 0, 0
    while (start := lowered.find(word, search)) >= 0:
        end = start + len(word)
        if _is_in_word(text[start - 1 : start]) or _is_in_word(text[end : end + 1]):
            search = start + 1
        else:
            kept.append(text[after:start])
            after = search = end
    return _MARK.join([*kept, text[after:]])


def _is_in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def spellings(secrets: Iterable[str]) -> frozenset[str]:
    """What servers make of addresses in their texts: in lower case, and their local parts."""
    found = set()
    for secret in secrets:
        local = secret.rpartition("@")[0]
        found |= {secret.lower(), xtext(secret).lower(), local.lower(), local.strip('"').lower()}
    return frozenset(spelling for spelling in found if len(spelling) >= _SHORTEST)


def xtext(text: str) -> str:
    """Encode as xtext (RFC 3461, section 4), for ``ENVID`` and ``ORCPT``."""
    if _PLAIN.match(text):
        return text
    encoded = text.encode("utf-8")
    return "".join(
        chr(byte) if 33 <= byte <= 126 and byte not in b"+=" else f"+{byte:02X}" for byte in encoded
    )


def original_recipient(address: str) -> str:
    """The recipient in delivery reports, ORCPT (RFC 3461, section 4.2; RFC 6533, section 3)."""
    if address.isascii():
        return f"rfc822;{xtext(address)}"
    return "utf-8;" + "".join(
        character if "!" <= character <= "~" and character not in "+=\\" else
        rf"\x{{{ord(character):X}}}"
        for character in address
    )  # fmt: skip


def _visible(character: str) -> str:
    if character in "\t\r\n":
        return " "
    if character.isprintable():
        return character
    # Removed, not escaped: an invisible character within an address would hide it.
    return "" if unicodedata.category(character) in ("Cc", "Cf") else " "


def _joined(found: re.Match[str]) -> str:
    # int(): "5.01.1" is not valid, and must not be a key beside "5.1.1".
    return ".".join(str(int(part)) for part in found.groups())
