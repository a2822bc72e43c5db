"""Mailboxes in files: maildir and mbox."""

from __future__ import annotations

import mailbox
import os
import re
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...core.errors import ConfigError, SinkUnavailable
from .reports import MAX_MESSAGE

_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_IS_READ = re.compile(rb"^Status:[ \t]*\w*R", re.IGNORECASE | re.MULTILINE)


class Incoming(NamedTuple):
    """A message in a mailbox.

    Attributes:
        key: name of the message until it is done; "" in an mbox, which has no lasting names.
        data: empty if the message cannot be read.
        done: marks the message; call it when everything about the message is stored.
    """

    key: str
    data: bytes
    done: Callable[[], None]


def read_maildir(folder: Path, skipped: Collection[str] = ()) -> Iterator[Incoming]:
    """Yield the messages of a maildir that are not marked as seen.

    ``done()`` moves a message to ``cur`` and marks it as seen.

    Args:
        skipped: keys of messages to leave out.

    Raises:
        ConfigError: the folder is not a maildir.
        SinkUnavailable: it cannot be listed, or a message cannot be moved.
    """
    if not all((folder / name).is_dir() for name in ("new", "cur")):
        raise ConfigError("expected a maildir, a folder with the folders 'new' and 'cur', got none")
    for part in ("new", "cur"):
        try:
            names = sorted(os.listdir(folder / part))
        except OSError as error:
            raise _failed("read the maildir", error) from None
        for name in names:
            base, _, flags = name.partition(":2,")
            path = folder / part / name
            if name.startswith(".") or "S" in flags or base in skipped or not path.is_file():
                continue
            flags = "".join(sorted({*flags, "S"}))
            target = folder / "cur" / f"{base}:2,{flags}"
            yield Incoming(base, _content(path), lambda a=path, b=target: _move(a, b))  # type: ignore[misc]


def read_mbox(path: Path) -> Generator[Incoming, None, None]:
    """Yield the messages of an mbox file that are not marked as read.

    The file is locked during the iteration, by fcntl and a lock file. Messages whose ``done()`` was
    called are marked as read when the iterator ends, also when it is closed early.

    Raises:
        ConfigError: the file does not exist.
        SinkUnavailable: it is locked, or cannot be read or written.
    """
    try:
        box = mailbox.mbox(path, create=False)
        box.lock()
    except mailbox.NoSuchMailboxError:
        raise ConfigError("expected an mbox file, got none: check its path") from None
    except mailbox.ExternalClashError:
        raise SinkUnavailable("cannot read the mbox file: another program has locked it") from None
    except OSError as error:
        raise _failed("read the mbox file", error) from None
    done: list[str] = []
    try:
        for key in box.keys():  # noqa: SIM118 - iterating over a mailbox gives messages
            data = box.get_bytes(key)
            if _IS_READ.search(_END_OF_HEADERS.split(data, maxsplit=1)[0]):
                continue
            yield Incoming("", data, lambda key=key: done.append(key))  # type: ignore[misc]
    finally:
        try:
            for key in done:
                # A message that the standard library cannot write stays unread and is read again.
                with suppress(Exception):
                    message = box.get_message(key)
                    message.add_flag("R")
                    box[key] = message
            box.flush()
        except (OSError, mailbox.Error) as error:
            raise _failed("write the mbox file", error) from None
        finally:
            box.close()


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MESSAGE + 1)
    except OSError:
        return b""


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise _failed("move a message of the maildir", error) from None


def _failed(what: str, error: Exception) -> SinkUnavailable:
    """The error for a file, without its path."""
    number = getattr(error, "errno", None)
    why = os.strerror(number) if number else type(error).__name__
    return SinkUnavailable(f"cannot {what}: {why}")
