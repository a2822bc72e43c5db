"""A run of everything by several pytest processes beside one another, each with its own servers.

Each process collects all tests. Before it runs a file, it claims the file in a folder that the
processes share; files that another process has claimed are skipped. So all end at about the
same time, whatever the files take. Files and not tests, since what a file needs is often made
once for all of its tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIABLE = "FORMRELAY_TEST_CLAIMS"


class Share:
    """Runs the files that no other process has claimed.

    Args:
        claims: a folder that is empty at first.
    """

    def __init__(self, claims: Path) -> None:
        self._claims = claims
        self._is_ours: dict[Path, bool] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """As pytest's own loop, for our items."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        items = self._claimed(session.items)
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


def share_asked_for() -> Share | None:
    """A share of the run that the environment names; None for all.

    The variable is removed: it is not for what the tests start.
    """
    claims = os.environ.pop(VARIABLE, "")
    return Share(Path(claims)) if claims else None
