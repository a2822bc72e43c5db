"""Secrets: given in a variable, or in a file that may change while the program runs."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from ..core.clock import SYSTEM_CLOCK, Clock
from .parser import Expected, Parser

logger = logging.getLogger(__name__)

#: No secret is longer; keeps /dev/zero and a mistaken path from filling the memory.
_MAX_BYTES = 64 * 1024

#: A file this young may change again without its stamp changing (filesystems
#: stamp in ticks of some milliseconds, some in seconds), so it is read again.
_YOUNG_SECONDS = 2.0

Signature = tuple[int, int, int]


def no_check(text: str) -> str:
    """Any text on one line."""
    return text


def token_check(text: str) -> str:
    """What fits behind ``Authorization: Bearer`` (RFC 6750, generously)."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise Expected("be printable ASCII without spaces")
    return text


@dataclass(frozen=True)
class FilePath:
    """The file that a ``NAME_FILE`` variable names."""

    variable: str
    path: Path


@dataclass(frozen=True)
class SecretParser(Parser):
    """The parser of a secret.

    Attributes:
        check: returns the secret or raises :class:`Expected`; also asked about
            each new content of a file.
    """

    check: Callable[[str], str] = no_check

    def _from_text(self, value: object) -> object:
        if isinstance(value, FilePath):
            return FileSecret(value, self.check)
        # Not stripped, unlike other values: a password may end in a space.
        return self.read(value) if isinstance(value, str) else value


def secret(check: Callable[[str], str] = no_check, unit: str = "") -> SecretParser:
    """A secret whose text passes ``check``."""

    def whole_check(text: str) -> str:
        # A control character is never meant, and would split an HTTP header.
        if not text.isprintable():
            raise Expected("be one line of printable text")
        return check(text)

    return SecretParser(
        read=lambda text: SecretStr(whole_check(text)),
        write=lambda value: "" if value is None else str(value),
        unit=unit,
        secret=True,
        check=whole_check,
    )


class FileSecret(SecretStr):
    """A secret in a file, read again when the file changes.

    A file that disappears, becomes empty or becomes wrong leaves the last good
    value in force and a warning in the log: half of a rotation must not stop a
    worker. A changed file is one with another modification time, size or inode,
    which a Kubernetes volume's swap of symbolic links is too.

    Raises:
        Expected: the file cannot be read now, or what it holds is wrong.
    """

    def __init__(
        self, file: FilePath, check: Callable[[str], str], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._file = file
        self._check = check
        self._clock = clock
        self._warned = ""
        # One attribute holds both halves, so that a thread never sees one of
        # them old: no lock, and at worst two threads read the same file.
        self._state: tuple[Signature | None, str] = self._read()
        super().__init__("")

    def get_secret_value(self) -> str:
        """The value in force."""
        if self._changed():
            try:
                self._state = self._read()
            except Expected as wrong:
                self._warn(wrong.line(self._file.variable, raw=str(self._file.path), secret=False))
            else:
                self._warned = ""
        return self._state[1]

    def _changed(self) -> bool:
        try:
            return _signature(os.stat(self._file.path)) != self._state[0]
        except OSError:
            return True

    def _read(self) -> tuple[Signature | None, str]:
        """What the file holds and its signature; None as long as that cannot be relied on."""
        # The signature is taken before the content: a write in between makes the
        # next look read again.
        signature, content = _content(self._file)
        try:
            text = content.decode().rstrip("\r\n")
            if not text:
                raise Expected("not be empty", got="nothing")
            text = self._check(text)
        except UnicodeDecodeError:
            raise Expected("be UTF-8 text", got="other bytes", inside=True) from None
        except Expected as wrong:
            raise Expected(wrong.what, got=wrong.got, advice=wrong.advice, inside=True) from None
        young = self._clock.time() - signature[0] / 1e9 < _YOUNG_SECONDS
        return (None if young else signature), text

    def _warn(self, line: str) -> None:
        # Once for each cause: this runs before every use of the secret.
        if line != self._warned:
            self._warned = line
            logger.warning("%s; the last good value stays in force", line)

    def __len__(self) -> int:
        return len(self.get_secret_value())

    def __eq__(self, other: object) -> bool:
        # By file: the value changes, and a hash must not.
        return isinstance(other, FileSecret) and self._file == other._file

    def __hash__(self) -> int:
        return hash(self._file)


def _content(file: FilePath) -> tuple[Signature, bytes]:
    if "\0" in str(file.path):
        raise Expected("name a readable file")
    try:
        # Checked before the opening, which would wait for ever on a pipe.
        if not stat.S_ISREG(os.stat(file.path).st_mode):
            raise Expected("name a regular file", advice="a secret is read again when it changes")
        with open(file.path, "rb") as stream:
            signature = _signature(os.fstat(stream.fileno()))
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Expected("name a readable file", got=f"'{file.path}' ({why})") from None
    if len(content) > _MAX_BYTES:
        raise Expected(f"hold at most {_MAX_BYTES} bytes", got="more", inside=True)
    return signature, content


def _signature(status: os.stat_result) -> Signature:
    return (status.st_mtime_ns, status.st_size, status.st_ino)
