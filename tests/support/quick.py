"""The quick tier: tests that start no process and ask for no server.

Which tests those are is read from the code. A test is marked ``process`` when the test, one of
its fixtures, or a function that these call refers to a module that starts processes. A test that
this misses fails: a quick run refuses to start a process.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

from tests.support.ran import KINDS

#: Modules that start processes. ``pty`` forks, and the embedded broker is a server.
STARTERS = {"subprocess", "multiprocessing", "pty", "formrelay.brokers.embedded"}
#: Names that start processes (functions of ``os``), or fixtures that are not known beforehand.
_STARTING = {"fork", "posix_spawn", "system", "popen", "getfixturevalue", "sync_playwright"}
#: What ``pytest -m`` is given for a quick run.
QUICK = " and ".join(f"not {mark}" for mark in ("process", *KINDS))

_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}


class Quick:
    """Marks the tests that start a process, and refuses processes in a quick run.

    Args:
        is_asked_for: whether this is a quick run.
    """

    def __init__(self, *, is_asked_for: bool) -> None:
        self._is_asked_for = is_asked_for
        self._known: dict[object, bool] = {}
        self._running: str | None = None
        if is_asked_for:
            sys.addaudithook(self._refuse)

    @pytest.hookimpl(tryfirst=True)  # before `-m` selects by the marks
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Set the mark."""
        for item in items:
            if isinstance(item, pytest.Function) and any(map(self.starts, _functions(item))):
                item.add_marker("process")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Remember which test runs."""
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
            self._known[value] = False  # meanwhile: functions may refer to each other
            self._known[value] = any(map(self.starts, _references(value)))
        return self._known[value]

    def _refuse(self, event: str, _: object) -> None:
        if event in _EVENTS and self._running is not None:
            raise RuntimeError(
                f"{self._running} starts a process in a quick run: add the module that starts it "
                "to STARTERS in tests/support/quick.py, or mark the test with pytest.mark.process"
            )


def _functions(item: pytest.Function) -> Iterator[object]:
    """A test and its fixtures."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        for definition in definitions:
            yield definition.func


def _references(value: FunctionType | type) -> Iterator[object]:
    """Functions, classes and modules to which a function or a class refers by name."""
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
    """Names in a function and in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
