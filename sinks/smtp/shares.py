"""Shares of the connections that an account may have over all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Share(Protocol):
    """The right of one connection to exist. Each method may be called repeatedly."""

    @property
    def is_lost(self) -> bool:
        """Whether it has ended: another worker may have taken its place."""

    def take(self) -> bool:
        """Take it; False if all are taken."""

    def give_back(self) -> None:
        """Give it back, if it was taken. Never raises."""


#: Makes a share, which is not taken yet.
MakeShare = Callable[[], Share]
