"""Reads a message as a report about an e-mail."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email import message_from_bytes
from email.message import Message

from ...core.errors import ConfigError
from .delivery_status import read_delivery_status
from .feedback import read_feedback
from .free_text import read_automatic, read_free_text
from .model import Reading, Report, Unreadable
from .parts import parts_of

#: Maximum size of a message, in bytes. Reports return an e-mail with its attachments at most.
MAX_MESSAGE = 40_000_000
_MAX_FREE_TEXT = 500_000


def check_packages() -> None:
    """Check that the package for bounces of older servers is installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("flufl") is None or not importlib.util.find_spec("flufl.bounce"):
        raise ConfigError(
            "expected the package flufl.bounce for reports about e-mails, got none: "
            "pip install 'formrelay[email]'"
        )


def read_report(data: bytes) -> Reading:
    """Read a message. Never raises: what cannot be parsed is :class:`Unreadable`.

    The reports of Google and Microsoft are marked as automatic, so bounces and complaints are
    looked for before automatic replies.
    """
    if len(data) > MAX_MESSAGE:
        return Unreadable()
    try:
        message = message_from_bytes(data)
        parts = list(parts_of(message))
    except Exception:  # the standard library fails in many ways on garbage
        return Unreadable()
    readers: tuple[Callable[[], Reading | None], ...] = (
        lambda: read_delivery_status(parts),
        lambda: read_feedback(parts),
        lambda: _read_free_text(data, message, parts),
        lambda: read_automatic(message, parts),
    )
    for read in readers:
        with suppress(Exception):  # a reader failed on odd input: try the next reader
            found = read()
            if isinstance(found, Report):
                return replace(found, digest=_digest(message, found))
            if found is not None:
                return found
    return Unreadable()


def _read_free_text(data: bytes, message: Message, parts: list[Message]) -> Reading | None:
    """Read the words of a server, which come first: the end of a large message is not read."""
    if len(data) > _MAX_FREE_TEXT:
        message = message_from_bytes(data[:_MAX_FREE_TEXT])
        parts = list(parts_of(message))
    return read_free_text(message, parts)


def _digest(message: Message, report: Report) -> str:
    """Name a report by what it says: the headers of its copies differ."""
    said = [
        report.kind,
        str(message.get("message-id") or message.get("date")),
        *report.ids,
        *(f"{each.addresses[:1]} {each.status}" for each in report.recipients),
    ]
    return hashlib.blake2b("\n".join(said).encode("utf-8", "replace"), digest_size=12).hexdigest()
