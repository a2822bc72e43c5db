"""The embedded broker: a real server that comes and goes with its users."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.waiting import wait_until

USER = str(Path(__file__).with_name("embedded_user.py"))


class User:
    """A process that uses the server until it is told to end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, USER, str(folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate("")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # Whatever a test left: with its users gone the server must go as well.
    wait_until(lambda: not answers(tmp_path))


def answers(folder: Path) -> bool:
    # By hand: redis-py would try for seconds before it says no.
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


def test_users_that_start_together_share_one_server(folder: Path) -> None:
    users = [User(folder, str(number)) for number in range(4)]
    assert len({user.server_pid() for user in users}) == 1
    for user in users:
        user.end()


@pytest.mark.slow
def test_the_server_stops_when_its_last_user_is_gone_and_keeps_the_data(folder: Path) -> None:
    first, second = User(folder, "a"), User(folder, "b")
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.end()
    second.kill()  # a user that says no good-bye counts as gone all the same
    wait_until(lambda: not is_alive(pid))
    third = User(folder, "c")
    assert third.server_pid() != pid
    with redis.Redis(unix_socket_path=str(folder / "valkey" / "valkey.sock")) as client:
        assert sorted(client.lrange("seen", 0, -1)) == [b"a", b"b", b"c"]
        assert client.config_get("appendonly") == {"appendonly": "yes"}
    third.end()


def test_a_killed_server_is_started_again_by_the_next_user_without_loss(folder: Path) -> None:
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


def test_a_server_whose_keeper_was_killed_is_adopted(folder: Path) -> None:
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


def test_a_folder_too_deep_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("formrelay-*"))
    user = User(tmp_path.joinpath(*["a-rather-long-folder-name"] * 6), "a")
    user.server_pid()
    (folder,) = set(Path(tempfile.gettempdir()).glob(f"formrelay-{os.getuid()}-*")) - before
    assert folder.stat().st_mode & 0o077 == 0
    user.end()
    wait_until(lambda: not folder.exists())


@pytest.mark.parametrize("name", ["with space", 'with "quote', "with 100%41 & ü"])
def test_any_name_will_do_for_the_folder(tmp_path: Path, name: str) -> None:
    user = User(tmp_path / name, "a")
    assert user.server_pid()
    user.end()


def test_the_folder_is_closed_to_other_users(folder: Path) -> None:
    user = User(folder, "a")
    user.server_pid()
    assert (folder / "valkey").stat().st_mode & 0o077 == 0
    user.end()
