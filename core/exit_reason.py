"""Why this worker process ends, for code that counts starts, recycles and crashes.

A recycled process keeps its process id: its program is replaced (``ops/worker/restart.py``). Its
file locks end, since Python opens files without inheritance. A process that ended without a
reason has crashed.
"""

from __future__ import annotations

from typing import Literal

ExitReason = Literal["stopped", "recycled"]

_reason: ExitReason | None = None


def exit_reason() -> ExitReason | None:
    """Why this process ends; None while it works.

    Known from ``before_worker_shutdown`` on. SIGTERM during ``recycled`` makes it ``stopped``.
    """
    return _reason


def set_exit_reason(reason: ExitReason | None) -> None:
    """Set the reason. Only ``ops/worker`` does this."""
    global _reason
    _reason = reason
