"""Runs programs as a container does, with unshare and setpriv instead of a container engine.

A container has process, mount, host name and IPC namespaces of its own. Its program is process 1,
is user 10001, has no capability and can gain none, and can write to /tmp alone. The network is that
of the machine, so that servers on 127.0.0.1 can be reached. Needs root and Linux.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.waiting import wait_until

#: Number of the user and group, as in deploy/Dockerfile.
USER = "10001"
_NAMESPACES = ["--pid", "--fork", "--mount", "--uts", "--ipc"]
_SETPRIV = [
    *("setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"),
    *("--bounding-set", "-all", "--inh-caps", "-all"),
]
#: $1: root folder of an image, or empty; $2: folder with the secrets; $3: where they are mounted;
#: $4: the folder of Python, if it is below a folder that only root can open; $5: name of the host.
_SET_UP = """
set -e
hostname "$5"
root=$1
[ -z "$root" ] || mount -n --bind "$root" "$root"
mount -n -t tmpfs -o mode=0755 tmpfs "$root/run"
mkdir -p "$root$3"
cp "$2"/* "$root$3"
chown -R USER:USER "$root$3"
chmod 0400 "$root$3"/*
mount -n -o remount,ro "$root/run"
mount -n -t tmpfs -o mode=1777 tmpfs "$root/tmp"
if [ -n "$root" ]; then
    mount -n --rbind /dev "$root/dev"
elif [ -n "$4" ]; then
    # Show the folder of Python alone, below an empty folder that everybody can open.
    mount -n --bind "$4" /mnt
    mount -n -t tmpfs -o mode=0755 tmpfs "/$(echo "$4" | cut -d/ -f2)"
    mkdir -p "$4"
    mount -n --move /mnt "$4"
fi
mount -n -t proc proc "$root/proc"
mount -n -o remount,bind,ro "$root/"
shift 5
[ -z "$root" ] && exec "$@" || exec chroot "$root" "$@"
""".replace("USER", USER)


def can_run() -> bool:
    """Whether this machine lets this user make namespaces."""
    if os.getuid() != 0 or sys.platform != "linux":
        return False
    try:
        return (
            subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        return False


class Container:
    """A running program.

    Args:
        name: name of its host.
        words: the program and its arguments, as the image would start it.
        env: its variables.
        secrets: folder whose files it finds in `secrets_at`.
        root: root folder of an image; None: that of this machine.
        output: file that its output is appended to.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        env: Mapping[str, str],
        *,
        secrets: Path,
        secrets_at: str,
        output: Path,
        root: Path | None = None,
    ) -> None:
        self.name = name
        self._root = "" if root is None else str(root)
        self._env = [f"{key}={value}" for key, value in env.items()]
        python = "" if root else _hidden(Path(sys.base_prefix))
        setup = [self._root, str(secrets), secrets_at, python, name]
        command = ["sh", "-c", _SET_UP, "sh", *setup, *self._unprivileged(words)]
        with output.open("ab") as file:
            file.write(f"\n== {name}: {shlex.join(words)}\n".encode())
            file.flush()
            self._process = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--", *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/",
            )  # fmt: skip
        self.pid = self._first_child()
        # Until now, process 1 is the shell that sets up, which drops signals.
        wait_until(lambda: not self.is_running() or self._program() == words[0])

    def _unprivileged(self, words: Sequence[str]) -> list[str]:
        return [*_SETPRIV, "env", "-i", *self._env, *words]

    def _first_child(self) -> int:
        """The process that is process 1 inside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_until(lambda: self._process.poll() is not None or children.read_text().split())
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}")
        return int(children.read_text().split()[0])

    def _program(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            return ""

    def run(self, words: Sequence[str]) -> int:
        """Run a program inside, as `docker exec` does; return its exit status."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--uts", "--ipc"]
        change = ["chroot", self._root] if self._root else []
        command = [*enter, "--", *change, *self._unprivileged(words)]
        return subprocess.run(command, capture_output=True, cwd="/").returncode

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to process 1, as an engine does."""
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for the end; return the exit status."""
        return self._process.wait(seconds)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill its remaining processes."""
        if self.is_running():
            self.signal(signal.SIGKILL)  # the kernel then kills all processes of the namespace
            self._process.wait()


def _hidden(folder: Path) -> str:
    """The folder, if one above it can be opened by its owner alone."""
    is_hidden = any(not each.stat().st_mode & 0o001 for each in folder.parents)
    return str(folder) if is_hidden else ""
