"""Secrets: in a variable, or in a file that may change while the program runs."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from ..core.clock import SYSTEM_CLOCK, Clock
from .expected import Expected, shown

logger = logging.getLogger(__name__)

#: No secret is longer. Stops reading /dev/zero, or a large file named by mistake.
_MAX_BYTES = 64 * 1024

#: A younger file may change again and keep its modification time (some filesystems count in
#: seconds), so it is read at every use.
_YOUNG_SECONDS = 2.0

#: Modification time in ns, size, inode.
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class FilePath:
    """The file that a ``NAME_FILE`` variable names."""

    variable: str
    path: Path


def secret(
    check: Callable[[str], str] | None = None, *, is_one_line: bool = True
) -> BeforeValidator:
    """Make the validator of a secret: ``Annotated[SecretStr, secret(check)]``.

    Args:
        check: returns the secret, or raises :class:`Expected`; also asked about each new content
            of a file.
        is_one_line: False for a document, whose ``check`` decides about its characters.
    """

    def check_text(text: str) -> str:
        # A control character is never meant, and would split an HTTP header.
        if is_one_line and not text.isprintable():
            raise Expected("be one line of printable text")
        return check(text) if check else text

    def read(value: object) -> object:
        if isinstance(value, FilePath):
            return FileSecret(value, check_text)
        return SecretStr(check_text(value)) if isinstance(value, str) else value

    return BeforeValidator(read)


Password = Annotated[SecretStr, secret()]


class FileSecret(SecretStr):
    """A secret in a file, read again when the file changes.

    If the file disappears, becomes empty or invalid, the last valid value stays in use and a
    warning is logged: half of a rotation must not stop a worker. A file has changed if its
    modification time, size or inode has, so that Kubernetes' swap of symbolic links counts.

    Raises:
        Expected: the file cannot be read, or its content is invalid.
    """

    def __init__(
        self, file: FilePath, check: Callable[[str], str], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._file = file
        self._check = check
        self._clock = clock
        self._warned = ""
        # One attribute for both, so that no thread sees an old value with a new signature.
        # Without a lock two threads may read the same file, which does no harm.
        self._state: tuple[Signature | None, str] = self._read()
        super().__init__("")

    def get_secret_value(self) -> str:
        """Return the current value."""
        if self._has_changed():
            try:
                self._state = self._read()
            except Expected as error:
                self._warn(error.line(self._file.variable, raw=str(self._file.path), secret=False))
            else:
                self._warned = ""
        return self._state[1]

    def _has_changed(self) -> bool:
        try:
            return _signature(os.stat(self._file.path)) != self._state[0]
        except OSError:
            return True

    def _read(self) -> tuple[Signature | None, str]:
        """Return the signature and the content; None for the signature of a young file."""
        # The signature is older than the content: a write in between is noticed at the next use.
        signature, content = read_content(self._file.path)
        try:
            text = content.decode().rstrip("\r\n")
            if not text:
                raise Expected("not be empty", got="nothing")
            text = self._check(text)
        except UnicodeDecodeError:
            raise Expected("be UTF-8 text", got="other bytes", inside=True) from None
        except Expected as error:
            raise Expected(error.what, got=error.got, advice=error.advice, inside=True) from None
        is_young = self._clock.time() - signature[0] / 1e9 < _YOUNG_SECONDS
        return (None if is_young else signature), text

    def _warn(self, line: str) -> None:
        # Once for each cause: this runs at every use of the secret.
        if line != self._warned:
            self._warned = line
            logger.warning("%s; the last valid value stays in use", line)

    def __len__(self) -> int:
        return len(self.get_secret_value())


def read_content(path: Path) -> tuple[Signature, bytes]:
    """Read a file that a variable names.

    Raises:
        Expected: the path is not a regular file, or the file is unreadable or too large.
    """
    if "\0" in str(path):
        raise Expected("name a readable file")
    try:
        # Checked before opening, which would block on a pipe.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Expected("name a regular file", advice="a secret is read again when it changes")
        with open(path, "rb") as stream:
            signature = _signature(os.fstat(stream.fileno()))
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Expected("name a readable file", got=f"{shown(str(path))} ({why})") from None
    if len(content) > _MAX_BYTES:
        raise Expected(f"hold at most {_MAX_BYTES} bytes", got="more", inside=True)
    return signature, content


def _signature(status: os.stat_result) -> Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino)
