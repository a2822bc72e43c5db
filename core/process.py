"""The id of this process, by which code notices a fork."""

from __future__ import annotations

import os

_pid = os.getpid()


def current_pid() -> int:
    """``os.getpid()`` without a system call, for code that asks once for each message."""
    return _pid


def _forked() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)
