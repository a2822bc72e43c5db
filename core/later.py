"""What an actor waits for without keeping its thread.

An actor that is ``async def`` may await what derives from :class:`Later`, and nothing else:
no event loop runs here. It is a coroutine for the sake of its reader, who sees one delivery
from top to bottom, and of its thread, which goes on with the next one meanwhile.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Later(ABC, Generic[T]):
    """Work that goes on elsewhere. To be awaited once."""

    @abstractmethod
    def start(self, resume: Callable[[], object]) -> None:
        """Begin; ``resume`` is called once, in any thread, as soon as there is a result.

        It may be called before this returns.
        """

    @abstractmethod
    def result(self) -> T:
        """What came of it; raises what went wrong. After ``resume`` was called."""

    def __await__(self) -> Generator[Later[Any], None, T]:
        yield self
        return self.result()


class Steps:
    """A coroutine on its way, from one thing that it waits for to the next."""

    def __init__(self, coroutine: Coroutine[Any, None, None]) -> None:
        self._coroutine = coroutine

    def advance(self) -> Later[Any] | None:
        """Run it until it waits for something, which is not started yet; None: it is done.

        Raises:
            TypeError: it awaits something else.
            BaseException: what the coroutine raises.
        """
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration:
            return None
        if isinstance(waits_for, Later):
            return waits_for
        self._coroutine.close()
        raise TypeError(
            "expected an actor to await what the sinks and endpoints of formrelay give, got "
            f"{type(waits_for).__name__}: no event loop runs here"
        )

    def finish(self, waits_for: Later[Any] | None) -> None:
        """Run the rest in this thread, which waits."""
        while waits_for is not None:
            done = threading.Event()
            waits_for.start(done.set)
            done.wait()
            waits_for = self.advance()


def run(coroutine: Coroutine[Any, None, T]) -> T:
    """Run a coroutine from beginning to end in this thread, which waits for what it awaits."""
    found: list[T] = []

    async def keep() -> None:
        found.append(await coroutine)

    steps = Steps(keep())
    steps.finish(steps.advance())
    return found[0]
