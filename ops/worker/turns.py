"""Lets the worker processes of one main process recycle one after the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

_held: socket.socket | None = None


def take_turn() -> bool:
    """Take the turn of this process's siblings; returns whether this process has it.

    The turn is a name in Linux' abstract namespace, which the kernel frees when the process ends.
    Elsewhere, every process has it.
    """
    global _held
    if _held is not None:
        return True
    turn = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        turn.bind(f"\0formrelay-recycling-{os.getuid()}-{os.getppid()}")
    except FileNotFoundError:  # not Linux
        turn.close()
        return True
    except OSError:
        turn.close()
        return False
    _held = turn
    return True


def held_turn() -> list[int]:
    """File descriptors that keep the turn while the program of this process is replaced."""
    return [] if _held is None else [_held.fileno()]


def take_over(files: Iterable[int]) -> None:
    """Keep the turn that the predecessor of this program had."""
    global _held
    for file in files:
        os.set_inheritable(file, False)
        _held = socket.socket(fileno=file)


def end_turn() -> None:
    """Give the turn to another process."""
    global _held
    if _held is not None:
        _held.close()
        _held = None
