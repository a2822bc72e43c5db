"""Reads the attachments of an e-mail: files of one folder, and files at https URLs."""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import puremagic

from ...core.errors import InvalidJob, SinkPermanent, SinkTransient
from ...sinks.http import Egress, raise_for_status
from ...sinks.smtp.message import Attachment
from .schema import AttachmentFile

#: Types whose files are archives; only the file's name tells them apart.
_ARCHIVES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
_OFFICE = ("application/vnd.openxmlformats-", "application/vnd.oasis.", "application/epub+")
#: Bytes of a file that decide about its type.
_HEAD = 8192
#: Statuses of a URL that has no file for us.
_NO_FILE = (400, 401, 403, 404, 405)


@dataclass(frozen=True, slots=True)
class Attachments:
    """Reads attachments.

    Attributes:
        folder: the only folder whose files may be sent; None for none.
        egress: fetches files from URLs.
        max_bytes: maximum size of all attachments of an e-mail.
    """

    folder: Path | None
    egress: Egress
    max_bytes: int

    def read(self, files: Sequence[AttachmentFile], now: float) -> list[Attachment]:
        """Read the attachments of a job.

        Args:
            now: unix time in seconds.

        Raises:
            InvalidJob: a path is outside of the folder or no file, a URL has no file, or they are
                too large.
            SinkTransient: a file cannot be read now. (Never SinkUnavailable or SinkPermanent:
                these would be about the SMTP server.)
        """
        found: list[Attachment] = []
        left = self.max_bytes
        for number, each in enumerate(files, 1):
            where = f"attachment {number}"
            if each.path is not None:
                content = self._read_file(each.path, left, where)
            else:
                assert each.url is not None
                content = self._fetch(each.url, left, where, now)
            left -= len(content)
            media_type = media_type_of(each.filename, content)
            found.append(Attachment(each.filename, content, media_type))
        return found

    def _read_file(self, path: str, left: int, where: str) -> bytes:
        if self.folder is None:
            raise InvalidJob(
                f"{where}: expected a url, got a path: EMAIL_ATTACHMENTS_FOLDER is not set"
            )
        try:
            with open(_open_inside(self.folder, path), "rb") as file:
                content = file.read(left + 1)
        except ValueError as error:
            raise InvalidJob(f"{where}: {error}") from None
        except OSError as error:
            raise _unreadable(error, where) from None
        return self._checked(content, left, where)

    def _fetch(self, url: str, left: int, where: str, now: float) -> bytes:
        try:
            response = asyncio.run(self.egress.send("GET", url, {"accept": "*/*"}, b""))
            raise_for_status(response.status, response.headers, now, permanent=_NO_FILE)
        except (InvalidJob, SinkPermanent) as error:
            raise InvalidJob(f"{where}: {error}") from None
        except SinkTransient as error:
            raise SinkTransient(
                f"{where}: {error}", code=error.code, retry_after=error.retry_after
            ) from None
        if len(response.body) > left:
            raise InvalidJob(self._too_large(where))
        if not response.is_whole:
            raise SinkTransient(f"{where}: the connection was lost before the end of the file")
        return response.body

    def _checked(self, content: bytes, left: int, where: str) -> bytes:
        if len(content) > left:
            raise InvalidJob(self._too_large(where))
        return content

    def _too_large(self, where: str) -> str:
        return f"{where}: expected attachments of at most {self.max_bytes} bytes together, got more"


def media_type_of(filename: str, content: bytes) -> str:
    """The media type of a file: by its content; by its name where the content allows several."""
    by_name = mimetypes.guess_type(filename, strict=False)[0] or ""
    by_content = _by_content(content)
    if by_content in _ARCHIVES and by_name.startswith(_OFFICE):
        return by_name
    if by_content:
        return by_content
    if _is_text(content):
        return by_name if by_name.startswith("text/") or by_name in _TEXTS else "text/plain"
    return "application/octet-stream"


#: Types outside of text/ whose files are texts.
_TEXTS = ("application/json", "application/xml", "image/svg+xml", "message/rfc822")


def _by_content(content: bytes) -> str:
    """The type by the first bytes; empty for a text or an unknown type."""
    if _is_text(content[:_HEAD]):
        return ""
    try:
        found = puremagic.from_string(content[:_HEAD], mime=True)
    except (puremagic.PureError, ValueError):
        return ""
    return str(found)


def _is_text(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # A character may be cut off at the end of the first bytes.
        if error.start < len(content) - 3:
            return False
        text = content[: error.start].decode()
    return not any(ord(each) < 32 and each not in "\t\n\r\f" for each in text)


def _open_inside(folder: Path, path: str) -> int:
    """Open a file of a folder for reading, and return its descriptor.

    A symbolic link may lead to another place in the folder, never out of it. Links are resolved
    first; then every part of the path is opened without following links, so that a link made
    meanwhile is not followed.

    Raises:
        ValueError: the path leads out of the folder, or to something else than a file.
        OSError: the file cannot be opened.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not pure.parts:
        raise ValueError("expected a path inside the folder of attachments, got another path")
    root = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(root / pure))
    if not real.is_relative_to(root) or real == root:
        raise ValueError("expected a file inside the folder of attachments, got a link out of it")
    *folders, name = real.relative_to(root).parts
    try:
        inside = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # perhaps not mounted, so nothing can be said about the file
        raise OSError(errno.EIO, "the folder of attachments is missing") from None
    try:
        for part in folders:
            following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
            os.close(inside)
            inside = following
        # O_NONBLOCK: opening a pipe would wait for its writer.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
    finally:
        os.close(inside)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("expected a file, got a folder or a device")
    return file


def _unreadable(error: OSError, where: str) -> InvalidJob | SinkTransient:
    """The error for a file that cannot be read, without its path."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR):
        return InvalidJob(f"{where}: expected a file in the folder of attachments, got none")
    if error.errno == errno.ELOOP:
        return InvalidJob(f"{where}: expected a file, got a link that was made meanwhile")
    return SinkTransient(f"{where}: cannot read the file: {error.strerror}")
