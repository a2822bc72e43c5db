"""Which process this is: threads and connections do not live through a fork."""

from __future__ import annotations

import os

_pid = os.getpid()


def current_pid() -> int:
    """``os.getpid()`` without a call of the system's, which counts where it is asked often."""
    return _pid


def _forked() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)
