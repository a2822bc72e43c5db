"""Mailboxes on an IMAP server."""

from __future__ import annotations

import imaplib
import re
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ConfigError, SinkUnavailable, SinkUnready
from .files import Incoming
from .reports import MAX_MESSAGE

_SIZE = re.compile(rb"RFC822\.SIZE (\d+)")


@dataclass(frozen=True, slots=True)
class ImapAccount:
    """A folder on an IMAP server.

    Attributes:
        security: "tls" from the start, or "starttls". The certificate is verified.
        password: returns the current password.
        token: returns the access token for XOAUTH2, which is used instead of a password; its
            argument asks for a new token, because the server refused the last one.
        ca_file: authorities to trust instead of the system's.
    """

    host: str
    port: int
    security: Literal["tls", "starttls"]
    user: str = field(repr=False)
    password: Callable[[], str] = field(repr=False)
    token: Callable[[bool], str] | None = field(default=None, repr=False)
    folder: str = "INBOX"
    ca_file: Path | None = None
    timeout: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if not self.folder.isascii() or not self.folder.isprintable():
            raise ConfigError("expected a folder of the IMAP server in ASCII, got other characters")


def read_imap(account: ImapAccount, skipped: Collection[str] = ()) -> Iterator[Incoming]:
    """Yield the messages of a folder that are not marked as seen; those that are done are marked.

    Args:
        skipped: keys of messages that are left out.

    Raises:
        SinkUnavailable: the server cannot be reached, or the connection was lost.
        SinkUnready: the server refused the login or the folder.
    """
    with _translated():
        client = _connect(account)
    try:
        with _translated():
            validity = _select(client, account)
            status, found = client.uid("SEARCH", "UNSEEN")
            uids = found[0].split() if status == "OK" and found and found[0] else []
        for uid in map(bytes.decode, uids):
            key = f"{validity}.{uid}"
            if key in skipped:
                continue
            with _translated():
                data = _fetch(client, uid)
            if data is not None:
                yield Incoming(key, data, lambda uid=uid: _mark(client, uid))  # type: ignore[misc]
    finally:
        with suppress(imaplib.IMAP4.error, OSError):
            client.logout()


def _connect(account: ImapAccount) -> imaplib.IMAP4:
    context = ssl.create_default_context(cafile=account.ca_file)
    seconds = account.timeout.total_seconds()
    if account.security == "tls":
        client: imaplib.IMAP4 = imaplib.IMAP4_SSL(
            account.host, account.port, ssl_context=context, timeout=seconds
        )
    else:
        client = imaplib.IMAP4(account.host, account.port, timeout=seconds)
    try:
        if account.security == "starttls":
            client.starttls(context)
        _log_in(client, account)
    except BaseException:
        with suppress(OSError):
            client.shutdown()
        raise
    return client


def _log_in(client: imaplib.IMAP4, account: ImapAccount) -> None:
    if account.token is not None:
        _log_in_with_token(client, account.user, account.token)
        return
    try:
        if "AUTH=PLAIN" in client.capabilities:
            answer = f"\0{account.user}\0{account.password()}".encode()
            client.authenticate("PLAIN", lambda _: answer)
        else:
            client.login(account.user, account.password())
    except imaplib.IMAP4.abort:
        raise
    except (imaplib.IMAP4.error, UnicodeEncodeError):
        raise SinkUnready(
            "the IMAP server refused the login: check user and password of the mailbox"
        ) from None


def _log_in_with_token(client: imaplib.IMAP4, user: str, token: Callable[[bool], str]) -> None:
    """Log in with XOAUTH2. A token that the server refuses is refreshed once."""
    if "AUTH=XOAUTH2" not in client.capabilities:
        raise SinkUnready("expected the IMAP server to offer XOAUTH2, it does not")
    for is_second in (False, True):
        answers = [f"user={user}\x01auth=Bearer {token(is_second)}\x01\x01".encode()]
        try:
            # A refusal is a second question, with the reason, which wants an empty answer.
            client.authenticate("XOAUTH2", partial(_next_of, answers))
            return
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            continue
    raise SinkUnready(
        "the IMAP server refused the login with an OAuth token: check the user of the mailbox, the "
        "scope of the consent (IMAP), and that IMAP is switched on for the mailbox"
    )


def _next_of(answers: list[bytes], _: bytes) -> bytes:
    return answers.pop(0) if answers else b""


def _select(client: imaplib.IMAP4, account: ImapAccount) -> str:
    """Open the folder and return its UIDVALIDITY."""
    quoted = re.sub(r'(["\\])', r"\\\1", account.folder)
    status, _ = client.select(f'"{quoted}"')
    if status != "OK":
        raise SinkUnready("the IMAP server has no such folder, or no right to it: check the URL")
    _, found = client.response("UIDVALIDITY")
    return found[0].decode() if found and found[0] else ""


def _fetch(client: imaplib.IMAP4, uid: str) -> bytes | None:
    """The content of a message; empty for one that is too large, None if it has gone."""
    _, found = client.uid("FETCH", uid, "(RFC822.SIZE)")
    sizes = [size for part in found for size in _SIZE.findall(_first(part))]
    if not sizes:
        return None
    if int(sizes[0]) > MAX_MESSAGE:
        return b""
    _, found = client.uid("FETCH", uid, "(BODY.PEEK[])")
    return next((bytes(part[1]) for part in found if isinstance(part, tuple)), None)


def _first(part: Any) -> bytes:
    line = part[0] if isinstance(part, tuple) else part
    return line if isinstance(line, bytes) else b""


def _mark(client: imaplib.IMAP4, uid: str) -> None:
    with _translated():
        status, _ = client.uid("STORE", uid, "+FLAGS.SILENT", r"(\Seen)")
        if status != "OK":
            raise SinkUnready("the IMAP server refused to mark a message as seen: check the rights")


@contextmanager
def _translated() -> Iterator[None]:
    """Convert errors, whose texts may quote addresses."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise SinkUnready(
            f"the certificate of the IMAP server is not valid: {error.verify_message}"
        ) from None
    except (imaplib.IMAP4.error, OSError) as error:
        raise SinkUnavailable(f"the IMAP server failed: {type(error).__name__}") from None
