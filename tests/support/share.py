"""Splits a run among several pytest processes, each with its own servers.

Each process collects all tests. Before it runs a file, it claims the file in a shared folder, and
it skips files that another process has claimed. Files that take long come first, so that all
processes end at about the same time. The unit is a file, because fixtures are often shared by the
tests of a file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ran import KINDS

VARIABLE = "FORMRELAY_TEST_CLAIMS"
NAME = "share"
"""Name of the plugin, registered in shared runs alone."""

#: Marks -> about how many seconds a test with the mark takes.
_SECONDS = {"slow": 15.0, "process": 1.0, **dict.fromkeys(KINDS, 0.2)}


class Share:
    """Runs the files that no other process has claimed.

    Args:
        claims: folder shared by the processes, empty at the start of the run.
    """

    def __init__(self, claims: Path) -> None:
        self._claims = claims
        self._is_ours: dict[Path, bool] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Do as pytest's own loop, with the claimed items."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        items = self._claimed(longest_first(session.items))
        item = next(items, None)
        while item is not None:
            following = next(items, None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    def _claimed(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        for item in items:
            if item.path not in self._is_ours:
                self._is_ours[item.path] = self._claim(item.path)
            if self._is_ours[item.path]:
                yield item

    def _claim(self, file: Path) -> bool:
        try:
            (self._claims / str(file).replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """The items ordered by how long their files take, judged by the marks of the tests."""
    seconds: defaultdict[Path, float] = defaultdict(float)
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        seconds[item.path] += max((_SECONDS.get(mark, 0.0) for mark in marks), default=0.0)
    return sorted(items, key=lambda item: -seconds[item.path])


def share_asked_for() -> Share | None:
    """The share set by the environment; None to run everything.

    The variable is removed, so that processes started by tests do not inherit it.
    """
    claims = os.environ.pop(VARIABLE, "")
    return Share(Path(claims)) if claims else None
