"""Logs in at an SMTP server: XOAUTH2, PLAIN (RFC 4616) or LOGIN."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Protocol

from ...core.errors import SinkError, SinkUnavailable, SinkUnready
from ...core.redaction import redacted
from .account import Account
from .replies import Reply, make_reply, spellings

#: Maximum length of an AUTH command with an initial response (RFC 4954, section 4: a longer
#: response is sent as a line of its own).
_MAX_INITIAL = 500
_REFUSED = "the server refuses the login"
#: Hints by the enhanced status codes of Microsoft 365 and Gmail.
_HINTS = {
    "5.7.30": "Microsoft 365 accepts no passwords any longer: set up XOAUTH2",
    "5.7.139": "Microsoft 365 has SMTP AUTH switched off for this mailbox or tenant",
    "5.7.9": "it wants an app password, or XOAUTH2",
    "5.7.8": "check the user name and the password or token",
    "5.7.3": "check the user name, and that SMTP AUTH is switched on for this mailbox",
}


class Conversation(Protocol):
    """The part of a session that a login needs."""

    def ask(self, line: bytes) -> tuple[int, list[bytes]]:
        """Send a line and return the code and the lines of the reply."""


def log_in(connection: Conversation, account: Account, mechanisms: Sequence[str]) -> None:
    """Log in with the first mechanism that both sides have.

    A token that the server refuses is refreshed once.

    Args:
        mechanisms: names that the server offers, in upper case.

    Raises:
        SinkUnready: refused, or no common mechanism.
        SinkUnavailable: the server cannot check logins now.
        SinkError: the token's callable failed.
    """
    if account.user is None:
        return
    if account.token is not None:
        _log_in_with_token(connection, account.user, account.token, mechanisms)
    elif account.password is not None:
        _log_in_with_password(connection, account.user, account.password, mechanisms)


def _log_in_with_token(
    connection: Conversation, user: str, token: Callable[[bool], str], mechanisms: Sequence[str]
) -> None:
    if "XOAUTH2" not in mechanisms:
        raise _no_mechanism("XOAUTH2", mechanisms)
    for is_second in (False, True):
        value = token(is_second)
        _check(value, forbidden="\0\x01\r\n ", name="token")
        response = _encode(f"user={user}\x01auth=Bearer {value}\x01\x01")
        code, lines = connection.ask(b"AUTH XOAUTH2 " + response)
        if code == 334:  # the error as JSON; the reply follows an empty answer
            code, lines = connection.ask(b"")
        if code == 235:
            return
        error = _refusal(code, lines, (user, value, response.decode()))
        if not isinstance(error, SinkUnready) or is_second:
            raise error


def _log_in_with_password(
    connection: Conversation,
    user: str,
    password: Callable[[], str | None],
    mechanisms: Sequence[str],
) -> None:
    value = password()
    if not value:
        raise SinkUnready("expected a password for the SMTP user, got none")
    _check(value, forbidden="\0", name="password")
    usable = [name for name in ("PLAIN", "LOGIN") if name in mechanisms]
    if not usable:
        raise _no_mechanism("PLAIN or LOGIN", mechanisms)
    secrets = (user, value, _encode(f"\0{user}\0{value}").decode(), _encode(value).decode())
    for name in usable:
        code, lines = (_plain if name == "PLAIN" else _login)(connection, user, value)
        if code == 235:
            return
        # Only a mechanism that the server does not have after all is worth another: a second
        # refusal of the same password may lock the account.
        if code != 504:
            break
    raise _refusal(code, lines, secrets)


def _plain(connection: Conversation, user: str, password: str) -> tuple[int, list[bytes]]:
    response = _encode(f"\0{user}\0{password}")
    if len(response) <= _MAX_INITIAL:
        return connection.ask(b"AUTH PLAIN " + response)
    code, lines = connection.ask(b"AUTH PLAIN")
    return connection.ask(response) if code == 334 else (code, lines)


def _login(connection: Conversation, user: str, password: str) -> tuple[int, list[bytes]]:
    code, lines = connection.ask(b"AUTH LOGIN")
    for value in (user, password):
        if code != 334:
            break
        code, lines = connection.ask(_encode(value))
    return code, lines


def _refusal(code: int, lines: Sequence[bytes], secrets: tuple[str, ...]) -> SinkError:
    text = redacted(b" ".join(lines).decode("utf-8", "replace"), secrets, most=500)
    reply = make_reply(code, [text.encode()], step="check", hidden=spellings(secrets))
    if 400 <= code < 500 and code != 432:  # 432: the password has to be changed
        return SinkUnavailable(f"the server cannot log in now: {reply}", code=code)
    return SinkUnready(f"{_REFUSED}: {reply}{_hint(reply)}", code=code)


def _hint(reply: Reply) -> str:
    hint = _HINTS.get(reply.status)
    return f" ({hint})" if hint else ""


def _no_mechanism(wanted: str, mechanisms: Sequence[str]) -> SinkUnready:
    offered = ", ".join(mechanisms) if mechanisms else "no login"
    return SinkUnready(f"expected the server to offer {wanted}, it offers {offered}")


def _check(secret: str, *, forbidden: str, name: str) -> None:
    if not secret or any(character in secret for character in forbidden):
        raise SinkUnready(f"expected the {name} to be without control characters, it is not")


def _encode(text: str) -> bytes:
    return base64.b64encode(text.encode("utf-8", "surrogateescape"))
