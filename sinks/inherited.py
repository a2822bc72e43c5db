"""What libcurl has open in the process that this one was forked from.

Freed here, a handle would say goodbye on connections that are still the parent's: when a thread's
own are cleared, since a child has none of its parent's other threads, and when the child ends.
So it is never freed.
"""

from __future__ import annotations

import ctypes
import os
from threading import Lock
from typing import Any
from weakref import WeakSet

_lock = Lock()
_open: WeakSet[Any] = WeakSet()
_held: list[Any] = []


def leave_to_parent(handle: Any) -> None:
    """Should this process fork, its child leaves this handle of libcurl's as it is."""
    with _lock:
        _open.add(handle)


def _before_fork() -> None:
    _lock.acquire()
    _held.extend(_open)


def _in_parent() -> None:
    _held.clear()
    _lock.release()


def _in_child() -> None:
    for handle in _held:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    _held.clear()
    _open.clear()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
