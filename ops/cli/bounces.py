"""``formrelay bounces``: read reports about e-mails, and suppress addresses that bounced."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import unquote, urlsplit

import typer
from pydantic import TypeAdapter, ValidationError

from ...actors import declare_actors
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError, ConfigError, NotNow, SinkError, describe
from ...state import make_bounce_rates, make_journal, make_suppressions
from ..logs import setup_logging
from ..output import print_json, say, say_error
from ..worker.boot import NOT_FINE
from .options import JsonOption, parse_duration
from .shared_state import shared_state

if TYPE_CHECKING:
    from ...actors.emails.report_handler import ReportHandler
    from ...sinks.mailbox.files import Incoming
    from ...sinks.mailbox.imap import ImapAccount

logger = logging.getLogger("formrelay.emails")

#: Exit status that tells a mail server to deliver the message again later (sysexits.h).
_TRY_AGAIN = 75
_PORTS = {"imaps": 993, "imap": 143}

_Read = Callable[[Collection[str]], "Iterable[Incoming]"]


def bounces(
    source: Annotated[
        str | None,
        typer.Argument(metavar="-", help="'-': one message on standard input."),
    ] = None,
    maildir: Annotated[Path | None, typer.Option(help="Maildir with reports.")] = None,
    mbox: Annotated[Path | None, typer.Option(help="mbox file with reports.")] = None,
    imap: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="imaps://user@host/INBOX. Default: EMAIL_IMAP_URL. The password is in "
            "EMAIL_IMAP_PASSWORD.",
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Keep reading the mailbox at this interval, like 60s. Default: read it once.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Read bounces and complaints, and suppress the addresses.

    Handled messages are marked as read. Messages that are not reports stay
    unread; if there are any, the exit status is 1.

    Example: formrelay bounces --mbox /var/mail/bounces
    """
    setup_logging(get_settings().logging)
    is_pipe = _check_sources(source, maildir, mbox, imap)
    if is_pipe and every is not None:
        raise typer.BadParameter("expected no --every with '-', which is one message")
    handler = _handler()
    if is_pipe:
        _handle_one(handler, json)
        return
    read = _mailbox(maildir, mbox, imap)
    if every is None:
        counts, _ = _read_once(handler, read, set())
        _tell(counts, json)
        if counts["unreadable"]:
            raise typer.Exit(NOT_FINE)
    else:
        _read_again(handler, read, every, json)


def _check_sources(
    source: str | None, maildir: Path | None, mbox: Path | None, imap: str | None
) -> bool:
    """Check that at most one mailbox is named; returns whether it is standard input."""
    named = sum(each is not None for each in (source, maildir, mbox, imap))
    if source not in (None, "-") or named > 1:
        raise typer.BadParameter("expected one of '-', --maildir, --mbox and --imap")
    return source is not None


def _handler() -> ReportHandler:
    from ...actors.emails.report_handler import ReportHandler
    from ...sinks.mailbox.reports import check_packages

    check_packages()
    declare_actors()
    state = shared_state()
    return ReportHandler(make_journal(state), make_suppressions(state), make_bounce_rates(state))


def _handle_one(handler: ReportHandler, json: bool) -> None:
    """Handle the message on standard input."""
    from ...sinks.mailbox.reports import MAX_MESSAGE

    data = sys.stdin.buffer.read(MAX_MESSAGE + 1)
    try:
        handled = handler.handle(data)
    except BrokerError as error:
        say_error(f"formrelay: {error}")
        raise typer.Exit(_TRY_AGAIN) from None
    _tell(Counter({handled: 1}), json)
    if handled == "unreadable":
        raise typer.Exit(NOT_FINE)


def _mailbox(maildir: Path | None, mbox: Path | None, imap: str | None) -> _Read:
    from ...sinks.mailbox.files import read_maildir, read_mbox
    from ...sinks.mailbox.imap import read_imap

    if maildir is not None:
        return lambda skipped: read_maildir(maildir, skipped)
    if mbox is not None:
        return lambda _: read_mbox(mbox)
    account = _account(imap)
    return lambda skipped: read_imap(account, skipped)


def _account(url: str | None) -> ImapAccount:
    """The account of a URL, or of EMAIL_IMAP_URL."""
    from ...actors.emails.access_token import make_token
    from ...config.emails import ImapUrl
    from ...sinks.mailbox.imap import ImapAccount

    section = get_settings().emails
    if url is None:
        url = section.secret("imap_url")
        if url is None:
            raise ConfigError(
                "expected '-', --maildir, --mbox, --imap or EMAIL_IMAP_URL, got none: name the "
                "mailbox that gets the bounces"
            )
    else:
        adapter: TypeAdapter[Any] = TypeAdapter(ImapUrl)
        try:
            url = adapter.validate_python(url).get_secret_value()
        except ValidationError:
            raise typer.BadParameter("expected --imap to be imaps://user@host/INBOX") from None
    parts = urlsplit(url)
    user, written = unquote(parts.username or ""), parts.password

    def password() -> str:
        return unquote(written) if written else section.secret("imap_password") or ""

    refresh_token = section.secret("imap_oauth_refresh_token")
    token = None if password() else make_token(get_settings(), refresh_token=refresh_token)
    if not user or not (password() or token):
        raise ConfigError(
            "expected the user of the mailbox in its URL, and its password there or in "
            "EMAIL_IMAP_PASSWORD, or SMTP_OAUTH_PROVIDER, got no user or no login"
        )
    return ImapAccount(
        parts.hostname or "",
        parts.port or _PORTS[parts.scheme.lower()],
        "tls" if parts.scheme.lower() == "imaps" else "starttls",
        user,
        password,
        token,
        unquote(parts.path.strip("/")) or "INBOX",
        section.imap_ca_file,
    )


def _read_once(
    handler: ReportHandler, read: _Read, left: Collection[str]
) -> tuple[Counter[str], set[str]]:
    """Handle the messages of a mailbox.

    Args:
        left: keys of messages that were read before and are not reports.

    Returns:
        How many messages were of each kind, and the keys of messages that are not reports.
    """
    counts: Counter[str] = Counter()
    unreadable: set[str] = set()
    messages = read(left)
    try:
        for message in messages:
            handled = handler.handle(message.data)
            counts[handled] += 1
            if handled != "unreadable":
                message.done()
            elif message.key:
                unreadable.add(message.key)
    finally:
        if hasattr(messages, "close"):
            messages.close()  # an mbox file is written and unlocked, also after an error
    return counts, unreadable


def _read_again(handler: ReportHandler, read: _Read, every: float, json: bool) -> None:
    """Handle the messages of a mailbox until the process is stopped."""
    left: set[str] = set()
    is_found = False
    with _stopping() as stopping:
        while not stopping.is_set():
            started = SYSTEM_CLOCK.monotonic()
            try:
                counts, unreadable = _read_once(handler, read, left)
            except (BrokerError, ConfigError, NotNow, SinkError) as error:
                if isinstance(error, ConfigError) and not is_found:
                    raise
                logger.error("could not read reports", extra={"error_message": describe(error)})
            else:
                is_found = True
                left |= unreadable
                if counts:
                    _tell(counts, json)
            stopping.wait(max(0.0, every - (SYSTEM_CLOCK.monotonic() - started)))


@contextmanager
def _stopping() -> Iterator[Event]:
    """An event that SIGTERM sets, so that the current message is finished."""
    stopping = Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(counts: Counter[str], json: bool) -> None:
    from ...actors.emails.report_handler import Handled

    found = {kind: counts[kind] for kind in get_args(Handled)}
    if json:
        print_json(found)
    else:
        told = ", ".join(
            f"{number} {kind.removesuffix('s') if number == 1 else kind}"
            for kind, number in found.items()
            if number
        )
        say(told or "no new messages")
