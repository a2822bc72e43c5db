"""The quick tier: tests that need no server and start no process.

The code decides: a test is marked ``process`` if the test, one of its fixtures, or a function that
these call refers to a module that starts processes. A quick run refuses to start a process, so a
test that lacks the mark fails.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

from tests.support.ran import KINDS

#: Modules that start processes.
STARTERS = {"subprocess", "multiprocessing", "pty", "formrelay.brokers.embedded"}
#: Functions that start processes, or that get fixtures whose names the code does not tell.
_STARTING = {"fork", "posix_spawn", "system", "popen", "getfixturevalue", "sync_playwright"}
#: Expression for ``pytest -m`` in a quick run.
QUICK = " and ".join(f"not {mark}" for mark in ("process", *KINDS))

_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}


class Quick:
    """Marks the tests that start a process; in a quick run, refuses to start a process.

    Args:
        is_asked_for: this is a quick run.
    """

    def __init__(self, *, is_asked_for: bool) -> None:
        self._is_asked_for = is_asked_for
        self._known: dict[object, bool] = {}
        self._running: str | None = None
        if is_asked_for:
            sys.addaudithook(self._refuse)

    @pytest.hookimpl(tryfirst=True)  # before `-m` selects by the marks
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the tests."""
        for item in items:
            if isinstance(item, pytest.Function) and any(map(self.starts, _functions(item))):
                item.add_marker("process")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Record which test is running."""
        self._running = item.nodeid
        try:
            return (yield)
        finally:
            self._running = None

    def starts(self, value: object) -> bool:
        """Whether a function, class or module starts a process, or refers to one that does."""
        if isinstance(value, ModuleType):
            return value.__name__ in STARTERS
        value = inspect.unwrap(value) if callable(value) else value
        if not isinstance(value, FunctionType | type):
            return False
        if not value.__module__.startswith(("tests.", "scripts.")):
            return value.__module__ in STARTERS
        if value not in self._known:
            self._known[value] = False  # ends the recursion of functions that refer to each other
            self._known[value] = any(map(self.starts, _references(value)))
        return self._known[value]

    def _refuse(self, event: str, _: object) -> None:
        if event in _EVENTS and self._running is not None:
            raise RuntimeError(
                f"{self._running} starts a process in a quick run: add the module that starts it "
                "to STARTERS in tests/support/quick.py, or mark the test with pytest.mark.process"
            )


def _functions(item: pytest.Function) -> Iterator[object]:
    """Functions of a test and its fixtures."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        for definition in definitions:
            yield definition.func


def _references(value: FunctionType | type) -> Iterator[object]:
    """Functions, classes and modules that a function or class refers to by name."""
    if isinstance(value, type):
        yield from value.__bases__
        for member in vars(value).values():
            yield getattr(member, "fget", getattr(member, "__func__", member))
        return
    yield from (cell.cell_contents for cell in value.__closure__ or ())
    names = set(_names(value.__code__))
    if names & (STARTERS | _STARTING):
        yield sys.modules["subprocess"]
    for name in names:
        found = value.__globals__.get(name, sys.modules.get(name))
        yield found
        if isinstance(found, ModuleType) and found.__name__.startswith("tests."):
            yield from (getattr(found, other, None) for other in names)


def _names(code: CodeType) -> Iterator[str]:
    """Names in a function and in its inner functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
