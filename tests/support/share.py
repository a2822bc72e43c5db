"""Splits a run among several pytest processes, each with its own servers.

Each process claims one file after the other in a shared folder, and skips files that another
process has claimed. It imports and collects a file when it has claimed it: to collect all files
takes 12 s of CPU, and twice that in a fresh clone. Files that take long come first, so that all
processes end at about the same time. The unit is a file, because fixtures are often shared by the
tests of a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ran import KIND_OF_FIXTURE, KINDS

VARIABLE = "FORMRELAY_TEST_CLAIMS"
NAME = "share"
"""Name of the plugin, registered in shared runs alone."""

#: Seconds that a test takes, roughly, if the source of its file matches.
_SLOW = 15.0
_SECONDS = (
    (re.compile(r"_server\b|_cluster\b|\bsubprocess\b|support\.command|support\.servers"), 1.0),
    (re.compile(rf"\b(harness|broker|{'|'.join(KINDS)})"), 0.2),
)
_ALL_ARE_SLOW = re.compile(r"^pytestmark = (\[[^]]*|.*)\bmark\.slow", re.MULTILINE)


class Later(pytest.File):
    """A test file that is not collected yet."""

    def collect(self) -> list[pytest.Item]:
        """Return no tests."""
        return []


class Share:
    """Runs the files that no other process has claimed.

    Args:
        claims: folder shared by the processes, empty at the start of the run.
    """

    def __init__(self, claims: Path) -> None:
        self._claims = claims
        self._files: list[Later] = []
        self._left: list[Path] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> pytest.Collector:
        """Put off the collection of a file."""
        later: Later = Later.from_parent(parent, path=module_path)
        self._files.append(later)
        return later

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Do as pytest's own loop, with the tests of the claimed files."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        items = self._claimed(session)
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

    def left_to_others(self) -> set[str]:
        """The kinds of server that the files claimed by other processes use."""
        texts = [path.read_text() for path in self._left]
        return {kind for name, kind in KIND_OF_FIXTURE.items() if any(name in one for one in texts)}

    def _claimed(self, session: pytest.Session) -> Iterator[pytest.Item]:
        for file in sorted(self._files, key=lambda file: -seconds_of(file.path.read_text())):
            if not self._claim(file.path):
                self._left.append(file.path)
                continue
            assert file.parent is not None
            items = [*session.genitems(pytest.Module.from_parent(file.parent, path=file.path))]
            session.config.hook.pytest_collection_modifyitems(
                session=session, config=session.config, items=items
            )
            session.items += items
            session.testscollected += len(items)
            yield from items

    def _claim(self, file: Path) -> bool:
        try:
            (self._claims / str(file).replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def seconds_of(source: str) -> float:
    """About how long the tests of a file take, judged by words in its source."""
    tests = len(re.findall(r"^ *def test_", source, re.MULTILINE))
    slow = tests if _ALL_ARE_SLOW.search(source) else source.count("mark.slow")
    return slow * _SLOW + tests * max(
        (seconds for words, seconds in _SECONDS if words.search(source)), default=0.0
    )


def share_asked_for() -> Share | None:
    """The share set by the environment; None to run everything.

    The variable is removed, so that processes started by tests do not inherit it.
    """
    claims = os.environ.pop(VARIABLE, "")
    return Share(Path(claims)) if claims else None
