"""Sends one e-mail on a connection of its own and tells what each step was answered."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ...core.clock import SYSTEM_CLOCK
from ...core.errors import SinkError
from .account import Account
from .connection import Lost
from .replies import Step, make_reply, spellings
from .session import Session
from .transaction import make_outgoing_email


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """A step and its answer.

    Attributes:
        name: "connect", "tls", "ehlo", "login", "mail", "rcpt", "data" or "dot".
        is_ok: whether the next step can follow.
        says: the server's answer, or what went wrong.
    """

    name: str
    is_ok: bool
    says: str


def try_login(account: Account, senders: Sequence[str] = ()) -> Iterator[ProbeStep]:
    """Connect and log in; a failed step is the last. Then ask for each sender, sending nothing.

    Args:
        senders: addresses, each for a step "mail"; "" is no return path.
    """
    session = Session(account, SYSTEM_CLOCK)
    if not (yield from _open(session)):
        return
    for sender in senders:
        line = b"MAIL FROM:<" + sender.encode() + b">"
        line += b"" if sender.isascii() else b" SMTPUTF8"
        yield _ask(session, "mail", line, account.timeouts.mail, (250,), spellings([sender]))
        session.reset()
        if session.is_broken:
            break
    session.quit()


def _ask(
    session: Session,
    name: Step,
    line: bytes,
    timeout: timedelta,
    expected: Sequence[int],
    hidden: Iterable[str],
) -> ProbeStep:
    try:
        code, lines = session.command(line, timeout)
    except (Lost, SinkError) as error:
        return ProbeStep(name, False, str(error))
    reply = make_reply(code, lines, step=name, hidden=hidden)
    return ProbeStep(name, code in expected, str(reply))


def send_probe(account: Account, sender: str, recipient: str, data: bytes) -> Iterator[ProbeStep]:
    """Send an e-mail to one recipient; a failed step is the last.

    Args:
        data: the e-mail; lines end with CRLF.

    Raises:
        InvalidJob: an address or the e-mail could be taken for a command.
    """
    message = make_outgoing_email(
        sender, [recipient], data, smtputf8=False, envid=None, before_dot=lambda _: None
    )
    session = Session(account, SYSTEM_CLOCK)
    if not (yield from _open(session)):
        return
    times = account.timeouts
    utf8 = b"" if (sender + recipient).isascii() else b" SMTPUTF8"
    commands: tuple[tuple[Step, bytes, timedelta, Sequence[int]], ...] = (
        ("mail", b"MAIL FROM:<" + sender.encode() + b">" + utf8, times.mail, (250,)),
        ("rcpt", b"RCPT TO:<" + recipient.encode() + b">", times.rcpt, (250, 251)),
        ("data", b"DATA", times.data, (354,)),
        ("dot", message.data + b".", times.dot, (250,)),
    )
    hidden = spellings([sender, recipient])
    for name, line, timeout, expected in commands:
        step = _ask(session, name, line, timeout, expected, hidden)
        yield step
        if not step.is_ok:
            break
    session.quit()


def _open(session: Session) -> Generator[ProbeStep, None, bool]:
    """Open a session, and return whether it is open. The steps before a failure are told too."""
    failure = ""
    try:
        session.open()
    except SinkError as error:
        failure = str(error)
    yield from (ProbeStep(name, True, says) for name, says in session.steps)
    if failure:
        done = {name for name, _ in session.steps}
        account = session.account
        wanted = ["connect", *(["tls"] if account.security != "none" else []), "ehlo", "login"]
        if account.security == "tls":
            wanted[:2] = ["tls", "connect"]
        yield ProbeStep(next(name for name in wanted if name not in done), False, failure)
        session.close()
    return not failure
