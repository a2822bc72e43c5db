"""Maildir and mbox: messages are marked when they are done, and never before."""

from __future__ import annotations

import mailbox
from pathlib import Path

import pytest

from formrelay.core.errors import ConfigError, SinkUnavailable
from formrelay.sinks.mailbox.files import read_maildir, read_mbox

FIRST = b"From: a@x.example\nSubject: first\n\nFrom here on\n"
SECOND = b"From: b@x.example\nSubject: second \xff\n\n\xfe\n"


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1.one").write_bytes(FIRST)
    (tmp_path / "cur" / "2.two:2,F").write_bytes(SECOND)
    (tmp_path / "cur" / "3.three:2,RS").write_bytes(b"seen")
    (tmp_path / "tmp" / "4.four").write_bytes(b"not yet delivered")
    return tmp_path


@pytest.fixture
def mbox(tmp_path: Path) -> Path:
    path = tmp_path / "mbox"
    box = mailbox.mbox(path)
    box.add(FIRST)
    box.add(SECOND)
    box.close()
    return path


def names(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*"))


def test_messages_of_a_maildir_that_are_done_are_seen(maildir: Path) -> None:
    found = list(read_maildir(maildir))
    assert [each.data for each in found] == [FIRST, SECOND]
    assert "new/1.one" in names(maildir)  # nothing is done yet
    for each in found:
        each.done()
    seen = ["cur/1.one:2,S", "cur/2.two:2,FS", "cur/3.three:2,RS", "tmp/4.four"]
    assert names(maildir) == seen
    found[0].done()  # as if another process had been faster
    assert list(read_maildir(maildir)) == []


def test_messages_of_a_maildir_are_skipped_by_key(maildir: Path) -> None:
    first, second = read_maildir(maildir)
    (left,) = read_maildir(maildir, {first.key})
    assert left.key == second.key


def test_a_message_that_vanishes_is_skipped(maildir: Path) -> None:
    messages = read_maildir(maildir)
    (maildir / "new" / "1.one").rename(maildir / "1.one")
    assert [each.data for each in messages] == [SECOND]


def test_a_folder_that_is_no_maildir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a maildir"):
        next(read_maildir(tmp_path))


def test_messages_of_an_mbox_that_are_done_are_read(mbox: Path) -> None:
    first, second = read_mbox(mbox)
    assert b"From here on" in first.data
    assert b"\xff" in second.data
    assert len(list(read_mbox(mbox))) == 2
    for each in read_mbox(mbox):
        if each.data == second.data:
            each.done()
    (left,) = read_mbox(mbox)
    assert left.data == first.data
    assert len(mailbox.mbox(mbox)) == 2  # nothing was removed


def test_an_mbox_keeps_what_was_done_before_an_error(mbox: Path) -> None:
    messages = read_mbox(mbox)
    next(messages).done()
    messages.close()
    (left,) = read_mbox(mbox)
    assert b"second" in left.data


def test_a_locked_mbox_is_read_later(mbox: Path) -> None:
    (mbox.parent / "mbox.lock").touch()
    with pytest.raises(SinkUnavailable, match="locked"):
        next(read_mbox(mbox))
    (mbox.parent / "mbox.lock").unlink()
    assert len(list(read_mbox(mbox))) == 2


def test_an_mbox_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an mbox file"):
        next(read_mbox(tmp_path / "no"))
