"""A message in the commands of SMTP: MAIL, RCPT, DATA, the message, and the dot that ends it.

Before the dot nothing is accepted, so everything can be tried again. After it, only the server's
answer tells whether the message was accepted. So the message goes out without its end, then
``before_dot`` is called, and then the end is sent by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ...core.errors import InvalidJob
from .connection import Garbled, Lost
from .replies import Reply, original_recipient, spellings, xtext
from .session import Closing, Session

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
#: A path as in RFC 5321 without <>: nothing that could end it or begin another command.
_PATH = re.compile(r'(?:"(?:[^"\\\x00-\x1f\x7f-\x9f]|\\[ -~])*"|[^\s<>"\x00-\x1f\x7f-\x9f@]+)@'
                   r"[^\s<>\x00-\x1f\x7f-\x9f@]+\Z")  # fmt: skip
#: Commands are sent in groups of this size, so that neither side waits with full buffers for the
#: other (RFC 2920, section 3.1).
_MAX_GROUP = 8192
#: Maximum number of recipients of a transaction: servers must accept 100 (RFC 5321, section
#: 4.5.3.1.8).
_MAX_RECIPIENTS = 100
_MAX_ENVID = 100
_MAX_ORCPT = 500
_NOTHING = timedelta(seconds=1)


class LostAfterDot(Lost):
    """The connection was lost before the server answered the dot."""


@dataclass(slots=True)
class OutgoingEmail:
    """A message and what the server has decided about it so far.

    Attributes:
        sender: the return path; empty for none.
        recipients: addresses; domains in ASCII.
        data: the message, as it is sent: lines end with CRLF, and beginning dots are doubled.
        size: its size without doubled dots.
        smtputf8: whether an address or a header needs SMTPUTF8.
        envid: the id in delivery reports (RFC 3461).
        before_dot: called with the recipients before the end of the message is sent.
        hidden: what is removed from the server's texts.
        replies: the deciding reply of each recipient; None: not decided yet.
    """

    sender: str
    recipients: tuple[str, ...]
    data: bytes = field(repr=False)
    size: int
    smtputf8: bool
    envid: str | None
    before_dot: Callable[[Sequence[str]], None]
    hidden: frozenset[str]
    replies: list[Reply | None]

    @property
    def pending(self) -> list[int]:
        return [index for index, reply in enumerate(self.replies) if reply is None]

    @property
    def has_accepted(self) -> bool:
        return any(reply is not None and reply.kind == "accepted" for reply in self.replies)

    def decide(self, indexes: Sequence[int], reply: Reply) -> None:
        """Note the reply that decided about recipients."""
        for index in indexes:
            self.replies[index] = reply


def make_outgoing_email(
    sender: str,
    recipients: Sequence[str],
    data: bytes,
    *,
    smtputf8: bool,
    envid: str | None,
    before_dot: Callable[[Sequence[str]], None],
) -> OutgoingEmail:
    """Check an e-mail and its addresses before it is sent.

    Raises:
        InvalidJob: an address or a line of the message could be taken for a command, or there is
            no recipient.
    """
    if not recipients:
        raise InvalidJob("expected at least one recipient, got none")
    for address in (*recipients, *filter(None, [sender])):
        if not _PATH.match(address):
            raise InvalidJob("expected an address as local@domain, got something else")
    # Counting takes a hundredth of the time of a search.
    if b"\0" in data or not data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n"):
        found = _BARE.search(data)
        name = {b"\r": "a bare CR", b"\n": "a bare LF"}.get(found[0] if found else b"", "a NUL")
        raise InvalidJob(f"expected the lines of the e-mail to end with CRLF, got {name}")
    if not data.endswith(b"\r\n"):
        data += b"\r\n"
    stuffed = data.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
    return OutgoingEmail(
        sender, tuple(recipients), stuffed, len(data), smtputf8, envid, before_dot,
        spellings([sender, *recipients]), [None] * len(recipients),
    )  # fmt: skip


def transmit(session: Session, email: OutgoingEmail) -> None:
    """Send the message to the pending recipients, in as many transactions as the server wants.

    Returns when all are decided, or the session has had its maximum number of messages.

    Raises:
        Closing: the server answered 421 and accepted nothing in this transaction.
        LostAfterDot: the outcome of the recipients that are still pending is unknown.
        Lost: the connection was lost before the dot; the server accepted nothing in this
            transaction.
    """
    _check(session, email)
    while email.pending and not session.is_spent:
        _Transaction(session, email, _group(session, email)).run()


def _check(session: Session, email: OutgoingEmail) -> None:
    """Refuse what the server would refuse, before it is sent."""
    features, pending = session.features, email.pending
    limit = features.get("SIZE", "")
    if limit.isascii() and limit.isdigit() and 0 < int(limit[:18]) < email.size:
        text = f"the e-mail has {email.size} bytes, the server takes {int(limit[:18])}"
        email.decide(pending, Reply(552, "5.3.4", text, "check"))
    elif not email.data.isascii() and "8BITMIME" not in features:
        text = "the e-mail has 8-bit lines, which the server does not take"
        email.decide(pending, Reply(554, "5.6.3", text, "check"))
    elif "SMTPUTF8" not in features:
        reply = Reply(553, "5.6.7", "the server does not take addresses outside ASCII", "check")
        if not email.sender.isascii() or (email.smtputf8 and not email.data.isascii()):
            email.decide(pending, reply)
        needy = [index for index in pending if not email.recipients[index].isascii()]
        email.decide(needy, reply)


def _group(session: Session, email: OutgoingEmail) -> list[int]:
    """The recipients of the next transaction, by the limits of the server."""
    most = min(_MAX_RECIPIENTS, session.limit("RCPTMAX", 10**6))
    most_domains = session.limit("RCPTDOMAINMAX", 10**6)
    group: list[int] = []
    domains: set[str] = set()
    for index in email.pending:
        domain = email.recipients[index].rpartition("@")[2].lower()
        if len(group) < most and len(domains | {domain}) <= most_domains:
            group.append(index)
            domains.add(domain)
    return group


class _Transaction:
    """One MAIL to some recipients."""

    def __init__(self, session: Session, email: OutgoingEmail, group: list[int]) -> None:
        self._session = session
        self._email = email
        self._group = group
        self._timeouts = session.account.timeouts
        self._hidden = email.hidden
        self._mail: Reply | None = None
        self._rcpts: list[Reply] = []
        self._data: Reply | None = None

    def run(self) -> None:
        self._session.sent += 1
        try:
            self._run()
        except Closing as closing:
            self._keep_refusals()
            if self._mail is None or closing.reply.step != "lost":
                raise
            # Unasked, but in the middle of this e-mail, which may be the reason.
            raise Closing(str(closing), replace(closing.reply, step="data")) from None

    def _keep_refusals(self) -> None:
        """Decide who was refused before the server closed the connection, so as not to ask again.

        Otherwise a server that closes after a number of refusals would do so at each attempt.
        """
        if self._mail is None or self._mail.kind != "accepted":
            return  # it refused them because of MAIL
        for index, reply in zip(self._group, self._rcpts, strict=False):
            if reply.kind == "refused":
                self._email.decide([index], reply)

    def _run(self) -> None:
        if "PIPELINING" in self._session.features:
            self._pipeline()
        else:
            self._step_by_step()
        assert self._mail is not None
        accepted = self._accepted()
        if self._mail.kind != "accepted":
            self._refused_at_mail(self._mail)
        elif not accepted:
            self._nobody()
        else:
            assert self._data is not None
            try:
                decision = self._send_data(accepted) if _goes_on(self._data) else self._data
            except LostAfterDot:
                self._decide_others(accepted)
                raise
            self._settle(accepted, decision)

    def _accepted(self) -> list[int]:
        pairs = zip(self._group, self._rcpts, strict=False)
        return [index for index, reply in pairs if reply.kind == "accepted"]

    def _step_by_step(self) -> None:
        self._note(self._ask(self._mail_command(), "mail"))
        assert self._mail is not None
        if self._mail.kind != "accepted":
            return
        for index in self._group:
            self._note(self._ask(self._rcpt_command(index), "rcpt"))
        if self._accepted():
            self._note(self._ask(b"DATA", "data"))

    def _pipeline(self) -> None:
        commands = [self._mail_command(), *map(self._rcpt_command, self._group), b"DATA"]
        for group in _groups(commands):
            self._session.expect_silence()
            self._session.write(b"\r\n".join(group) + b"\r\n", self._timeouts.mail)
            for _ in group:
                self._note(self._read(self._next_step()))
            assert self._mail is not None
            if self._mail.kind != "accepted":
                return
        if self._data is not None and _goes_on(self._data):
            self._session.expect_silence()

    def _next_step(self) -> str:
        if self._mail is None:
            return "mail"
        return "rcpt" if len(self._rcpts) < len(self._group) else "data"

    def _note(self, reply: Reply) -> None:
        is_expected = _goes_on(reply) if reply.step == "data" else reply.code < 300
        if reply.code < 400 and not is_expected:
            raise Garbled(f"it answered {reply.code} to {reply.step.upper()}")
        if reply.step == "mail":
            self._mail = reply
        elif reply.step == "rcpt":
            self._rcpts.append(reply)
        else:
            self._data = reply

    def _ask(self, command: bytes, step: str) -> Reply:
        self._session.expect_silence()
        self._session.write(command + b"\r\n", getattr(self._timeouts, step))
        return self._read(step)

    def _read(self, step: str) -> Reply:
        return self._session.read(
            getattr(self._timeouts, step),
            step,  # type: ignore[arg-type]
            self._hidden,
            about_recipient=step == "rcpt",
        )

    def _refused_at_mail(self, reply: Reply) -> None:
        if self._data is not None and _goes_on(self._data):
            if self._accepted():
                # It refused the sender and takes the message nevertheless: nothing is certain.
                raise Garbled("it answered 354 to DATA after it refused MAIL")
            self._send_lone_dot()
        self._email.decide(self._group, reply)
        self._reset()

    def _nobody(self) -> None:
        """All recipients were refused: no message is sent."""
        if self._data is not None and _goes_on(self._data):
            self._send_lone_dot()
        for index, reply in zip(self._group, self._rcpts, strict=True):
            self._email.decide([index], reply)
        self._reset()

    def _send_lone_dot(self) -> None:
        # RFC 2920, section 3.1: a server may answer 354 to a pipelined DATA without recipients.
        try:
            self._session.write(b".\r\n", self._timeouts.dot)
            self._read("dot")
        except (Lost, Closing):
            self._session.is_broken = True  # nobody's message was lost

    def _send_data(self, accepted: list[int]) -> Reply:
        if (refusal := self._send_message()) is not None:
            return refusal
        self._email.before_dot([self._email.recipients[index] for index in accepted])
        try:
            self._session.write(b".\r\n", self._timeouts.dot)
            reply = self._session.read(
                self._timeouts.dot, "dot", self._hidden, about_recipient=len(accepted) == 1
            )
        except Lost as lost:
            raise LostAfterDot(str(lost)) from None
        if 300 <= reply.code < 400:
            raise LostAfterDot(f"it answered {reply.code} to the end of the message")
        return reply

    def _send_message(self) -> Reply | None:
        """Send the message without its end; returns a refusal that came instead of a lost dot."""
        try:
            self._session.write(self._email.data, self._timeouts.block)
        except Lost:
            # A server that refuses a message in the middle may say so before it closes.
            reply = self._session.read(_NOTHING, "data", self._hidden, about_recipient=False)
            self._session.is_broken = True
            if reply.kind == "accepted":
                raise
            return reply
        self._session.expect_silence()
        return None

    def _settle(self, accepted: list[int], decision: Reply) -> None:
        self._email.decide(accepted, decision)
        is_sent = decision.kind == "accepted"
        for index, reply in zip(self._group, self._rcpts, strict=True):
            # The server takes the others in a transaction of their own, at once.
            is_next = is_sent and reply.is_too_many_recipients
            if reply.kind != "accepted" and not is_next:
                self._email.decide([index], reply)
        if not is_sent or len(accepted) < len(self._group):
            self._reset()

    def _decide_others(self, accepted: list[int]) -> None:
        """Decide who certainly did not get the message whose outcome is unknown."""
        for index, reply in zip(self._group, self._rcpts, strict=True):
            if index not in accepted:
                self._email.decide([index], reply)
        untried = [index for index in self._email.pending if index not in accepted]
        self._email.decide(untried, Reply(421, "4.4.2", "connection lost", "lost"))

    def _reset(self) -> None:
        if not self._session.is_broken:
            self._session.reset()

    def _mail_command(self) -> bytes:
        email, features = self._email, self._session.features
        words = [f"MAIL FROM:<{email.sender}>"]
        if "SIZE" in features:
            words.append(f"SIZE={email.size}")
        if not email.data.isascii():
            words.append("BODY=8BITMIME")
        if "SMTPUTF8" in features and self._needs_smtputf8():
            words.append("SMTPUTF8")
        if self._wants_reports:
            words.append("RET=HDRS")
            if len(envid := xtext(email.envid or "")) <= _MAX_ENVID:
                words.append(f"ENVID={envid}")
        return " ".join(words).encode("utf-8")

    @property
    def _wants_reports(self) -> bool:
        email = self._email
        return "DSN" in self._session.features and bool(email.envid and email.sender)

    def _needs_smtputf8(self) -> bool:
        email = self._email
        addresses = [email.sender, *(email.recipients[index] for index in self._group)]
        has_utf8_headers = email.smtputf8 and not email.data.isascii()
        return has_utf8_headers or not all(map(str.isascii, addresses))

    def _rcpt_command(self, index: int) -> bytes:
        address = self._email.recipients[index]
        words = [f"RCPT TO:<{address}>"]
        if self._wants_reports:
            words.append("NOTIFY=FAILURE,DELAY")
            if (original := original_recipient(address)) and len(original) <= _MAX_ORCPT:
                words.append(f"ORCPT={original}")
        return " ".join(words).encode("utf-8")


def _groups(commands: Sequence[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for command in commands:
        if group and size + len(command) > _MAX_GROUP:
            yield group
            group, size = [], 0
        group.append(command)
        size += len(command) + 2
    yield group


def _goes_on(reply: Reply) -> bool:
    return reply.code == 354
