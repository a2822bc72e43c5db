"""Attachments: files of the one folder, and files at https URLs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from formrelay.actors.emails.attachments import Attachments, media_type_of
from formrelay.actors.emails.schema import AttachmentFile
from formrelay.core.errors import InvalidJob, SinkTransient, SinkUnavailable
from formrelay.core.failure import Reason
from formrelay.sinks.http import Egress
from tests.actors.emails.conftest import Mailing, MailServer
from tests.support.certificates import Authority
from tests.support.http_server import running

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89"
MAX = 1000


def egress(**options: Any) -> Egress:
    base = {"timeout": timedelta(seconds=5), "allow_http": False, "allowed_private": ()}
    return Egress(**base | {"max_bytes": MAX + 1} | options)


def attachments(folder: Path | None, **options: Any) -> Attachments:
    return Attachments(folder, egress(**options), MAX)


def read(found: Attachments, *paths: str) -> list[bytes]:
    files = [AttachmentFile(filename="a.bin", path=path) for path in paths]
    return [each.content for each in found.read(files, 0.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, beside which lies another file."""
    (tmp_path / "secret.txt").write_text("secret")
    found = tmp_path / "files"
    (found / "deep").mkdir(parents=True)
    (found / "deep" / "a.txt").write_text("hello")
    return found


def test_a_file_of_the_folder_is_read(folder: Path) -> None:
    assert read(attachments(folder), "deep/a.txt", "./deep//a.txt") == [b"hello", b"hello"]


@pytest.mark.parametrize("path", ["../secret.txt", "deep/../../secret.txt", "deep/..", ".", "a\0b"])
def test_a_path_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(InvalidJob, match=r"attachment 1: expected a (path|file) inside"):
        read(attachments(folder), path)


def test_an_absolute_path_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidJob, match="expected a path inside"):
        read(attachments(folder), str(folder / "deep" / "a.txt"))


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "file").symlink_to("../secret.txt")
    (folder / "up").symlink_to("..")
    for path in ("file", "up/secret.txt"):
        with pytest.raises(InvalidJob, match="a link out of it"):
            read(attachments(folder), path)


def test_a_folder_whose_name_begins_the_same_is_outside(folder: Path) -> None:
    other = folder.with_name("files2")
    other.mkdir()
    (other / "a.txt").write_text("secret")
    (folder / "link").symlink_to(other / "a.txt")
    with pytest.raises(InvalidJob, match="a link out of it"):
        read(attachments(folder), "link")


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "link").symlink_to("deep/a.txt")
    alias = folder.with_name("alias")
    alias.symlink_to(folder)  # the configured folder may be a link itself
    assert read(attachments(alias), "link") == [b"hello"]


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    with pytest.raises(InvalidJob, match="expected a file"):
        read(attachments(folder), "loop")


def test_a_pipe_and_a_folder_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in ("pipe", "deep"):
        with pytest.raises(InvalidJob, match="expected a file, got a folder or a device"):
            read(attachments(folder), path)


@pytest.mark.parametrize("path", ["none.txt", "none/a.txt", "deep/a.txt/b", "x" * 300])
def test_a_file_that_does_not_exist_is_refused_without_its_path(folder: Path, path: str) -> None:
    with pytest.raises(InvalidJob, match="got none") as caught:
        read(attachments(folder), path)
    assert path not in str(caught.value)


def test_a_folder_that_is_not_mounted_is_tried_again(folder: Path) -> None:
    found = attachments(folder / "mounted")
    with pytest.raises(SinkTransient, match="the folder of attachments is missing"):
        read(found, "a.txt")


def test_the_limit_is_for_all_attachments_together(folder: Path) -> None:
    (folder / "half").write_bytes(b"x" * (MAX // 2))
    (folder / "more").write_bytes(b"x" * (MAX // 2 + 1))
    assert len(read(attachments(folder), "half", "half")) == 2
    with pytest.raises(InvalidJob, match="attachment 2: expected attachments of at most 1000"):
        read(attachments(folder), "half", "more")


def test_no_descriptor_is_left_open(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    found = attachments(folder)
    before = len(os.listdir("/proc/self/fd"))
    for path in ("deep/a.txt", "pipe", "none", "deep"):
        with suppress(InvalidJob):
            read(found, path)
    assert len(os.listdir("/proc/self/fd")) == before


def _office() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return file.getvalue()


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("filename", "content", "expected"),
    [
        ("a.png", PNG, "image/png"),
        ("a.pdf", PNG, "image/png"),  # the content decides
        ("a.html", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        ("a.txt", b"hello", "text/plain"),
        ("a.csv", "a;ä\n".encode(), "text/csv"),
        ("a.exe", b"hello", "text/plain"),
        ("a.docx", _office(), _DOCX),
        ("a.bin", b"\0\1\2\3" * 9, "application/octet-stream"),
        ("a.txt", b"\0\1\2\3" * 9, "application/octet-stream"),
        ("a", b"", "text/plain"),
    ],
)
def test_the_type_is_that_of_the_content(filename: str, content: bytes, expected: str) -> None:
    assert media_type_of(filename, content) == expected


# -- files at URLs ---------------------------------------------------------------------------


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size, sent = {"/a.png": (len(PNG), PNG), "/cut": (500, b"x" * 100)}.get(
            self.path, (2000, b"x" * 2000)
        )
        status = int(self.path[1:]) if self.path[1:].isdigit() else 200
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/a.png")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def site_url(authority: Authority) -> Iterator[str]:
    """The URL of an https server of files."""
    context = authority.server_side("files")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server) as port:
        yield f"https://localhost:{port}"


@pytest.fixture
def allowed(authority: Authority) -> Attachments:
    """Attachments that may be read from this machine."""
    local = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
    return attachments(None, allowed_private=local, ca_file=str(authority.certificate))


def fetch(found: Attachments, url: str) -> bytes:
    ((content),) = [
        each.content for each in found.read([AttachmentFile(filename="a.bin", url=url)], 0.0)
    ]
    return content


def test_a_file_at_a_url_is_read(allowed: Attachments, site_url: str) -> None:
    assert fetch(allowed, f"{site_url}/a.png") == PNG


def test_a_url_of_this_machine_is_refused(site_url: str) -> None:
    with pytest.raises(InvalidJob, match=r"attachment 1: .*blocked address"):
        fetch(attachments(None), f"{site_url}/a.png")


def test_a_url_without_encryption_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an https url, got http"):
        AttachmentFile(filename="a", url="http://example.com/a.png")


def test_a_large_file_at_a_url_is_refused(allowed: Attachments, site_url: str) -> None:
    with pytest.raises(InvalidJob, match="at most 1000 bytes"):
        fetch(allowed, f"{site_url}/large")


def test_a_file_that_was_cut_off_is_fetched_again(allowed: Attachments, site_url: str) -> None:
    with pytest.raises(SinkTransient, match="lost before the end"):
        fetch(allowed, f"{site_url}/cut")


@pytest.mark.parametrize("status", [404, 410, 403])
def test_a_url_without_a_file_is_refused(allowed: Attachments, site_url: str, status: int) -> None:
    with pytest.raises(InvalidJob, match=f"answered {status}"):
        fetch(allowed, f"{site_url}/{status}")


@pytest.mark.parametrize("status", [302, 500, 503, 429])
def test_other_answers_are_tried_again(allowed: Attachments, site_url: str, status: int) -> None:
    with pytest.raises(SinkTransient, match=f"answered {status}"):
        fetch(allowed, f"{site_url}/{status}")


def test_a_server_of_files_that_is_away_says_nothing_about_the_mail_server(
    allowed: Attachments,
) -> None:
    with pytest.raises(SinkTransient) as caught:
        fetch(allowed, "https://localhost:1/a.png")
    assert not isinstance(caught.value, SinkUnavailable)


# -- through the worker ----------------------------------------------------------------------


def test_an_attachment_arrives(mailing: Mailing, server: MailServer, folder: Path) -> None:
    mailing.use(attachments_folder=folder)
    files = [{"filename": "Grüße.txt", "path": "deep/a.txt"}]
    assert mailing.outcome(attachments=files) == []
    (message,) = server.messages
    (attachment,) = message.iter_attachments()
    assert attachment.get_filename() == "Grüße.txt"
    assert attachment.get_content() == "hello"


def test_a_bad_attachment_is_a_dead_letter(
    mailing: Mailing, server: MailServer, folder: Path
) -> None:
    mailing.use(attachments_folder=folder)
    (letter,) = mailing.outcome(attachments=[{"filename": "a", "path": "../secret.txt"}])
    assert letter.failure.reason is Reason.INVALID
    assert server.accepted == []


def test_too_many_attachments_are_refused_when_the_job_is_sent(mailing: Mailing) -> None:
    with pytest.raises(InvalidJob, match="at most 20 items"):
        mailing.send(attachments=[{"filename": "a", "path": "a"}] * 21)
