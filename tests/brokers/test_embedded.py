"""The embedded broker: a server that starts with its first user and stops with its last."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.command import Program, clean_environment
from tests.support.waiting import wait_until

USER = str(Path(__file__).with_name("embedded_user.py"))


class User:
    """A process that uses the server until the test ends it."""

    def __init__(self, folder: Path, name: str) -> None:
        stdin, self._given = os.pipe()
        printed, stdout = os.pipe()
        arguments = [USER, str(folder), name]
        streams = [stdin, stdout, 2]
        self._process = Program(arguments, Path.cwd(), clean_environment(), streams)
        for stream in (stdin, stdout):
            os.close(stream)
        self._printed = os.fdopen(printed)

    def server_pid(self) -> int:
        return int(self._printed.readline())

    def end(self) -> None:
        os.close(self._given)
        self._wait()

    def kill(self) -> None:
        self._process.kill()
        os.close(self._given)
        self._wait()

    def _wait(self) -> None:
        self._process.wait(60)
        self._printed.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # Also after a failed test: without users the server has to stop.
    wait_until(lambda: not answers(tmp_path))


def answers(folder: Path) -> bool:
    # With a plain socket, because redis-py retries for seconds.
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(folder / "valkey" / "valkey.sock"))
        except OSError:
            return False
        return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def test_users_that_start_at_once_share_one_server(folder: Path) -> None:
    users = [User(folder, str(number)) for number in range(4)]
    assert len({user.server_pid() for user in users}) == 1
    for user in users:
        user.end()


@pytest.mark.slow
def test_the_server_stops_after_its_last_user_and_keeps_the_data(folder: Path) -> None:
    first, second = User(folder, "a"), User(folder, "b")
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.end()
    second.kill()  # a killed user counts as gone too
    wait_until(lambda: not is_alive(pid))
    third = User(folder, "c")
    assert third.server_pid() != pid
    with redis.Redis(unix_socket_path=str(folder / "valkey" / "valkey.sock")) as client:
        assert sorted(client.lrange("seen", 0, -1)) == [b"a", b"b", b"c"]
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    third.end()


def test_the_next_user_restarts_a_killed_server_without_loss(folder: Path) -> None:
    first = User(folder, "a")
    pid = first.server_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: is_free(folder / "valkey" / "keeper.lock"))
    second = User(folder, "b")
    assert second.server_pid() != pid
    with redis.Redis(unix_socket_path=str(folder / "valkey" / "valkey.sock")) as client:
        assert client.lrange("seen", 0, -1) == [b"a", b"b"]
    first.end()
    second.end()


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_server_whose_keeper_was_killed_gets_another_keeper(folder: Path) -> None:
    first = User(folder, "a")
    pid = first.server_pid()
    keeper = int(Path(f"/proc/{pid}/stat").read_text().split(") ")[1].split()[1])  # its parent
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: is_free(folder / "valkey" / "keeper.lock"))
    second = User(folder, "b")
    assert second.server_pid() == pid
    wait_until(lambda: not is_free(folder / "valkey" / "keeper.lock"))
    first.end()
    second.end()
    wait_until(lambda: not is_alive(pid))


def test_a_folder_whose_path_is_too_long_for_a_socket_works(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("formrelay-*"))
    user = User(tmp_path.joinpath(*["a-rather-long-folder-name"] * 6), "a")
    user.server_pid()
    (folder,) = set(Path(tempfile.gettempdir()).glob(f"formrelay-{os.getuid()}-*")) - before
    assert folder.stat().st_mode & 0o077 == 0
    user.end()
    wait_until(lambda: not folder.exists())


@pytest.mark.parametrize("name", ["with space", 'with "quote', "with 100%41 & ü"])
def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    user = User(tmp_path / name, "a")
    assert user.server_pid()
    user.end()


def test_other_users_have_no_access_to_the_folder(folder: Path) -> None:
    user = User(folder, "a")
    user.server_pid()
    assert (folder / "valkey").stat().st_mode & 0o077 == 0
    user.end()
