"""The list of a broker's middleware, which reports its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.middleware import Middleware


class MiddlewareList(list[Middleware]):
    """Dramatiq's list of middleware. Programs change it in place, as they do with Dramatiq.

    Args:
        on_change: called after each change.
    """

    def __init__(self, middleware: Iterable[Middleware], on_change: Callable[[], None]) -> None:
        super().__init__(middleware)
        self._on_change = on_change


def _reporting(name: str) -> Any:
    method = getattr(list, name)

    def change(self: MiddlewareList, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        finally:
            self._on_change()

    change.__name__, change.__doc__ = name, method.__doc__
    return change


for _name in (
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("__setitem__", "__delitem__", "__iadd__", "__imul__"),
):
    setattr(MiddlewareList, _name, _reporting(_name))
