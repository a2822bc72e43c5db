"""A run of everything in several parts that run beside one another, each with its own servers."""

from __future__ import annotations

import os
import re

import pytest

VARIABLE = "FORMRELAY_TEST_PART"


class Part:
    """Leaves the files of one part: of three, every third one.

    Files and not tests, since what a file needs is often made once for all of its tests.

    Args:
        number, of: from 1.
    """

    def __init__(self, number: int, of: int) -> None:
        self._number, self._of = number, of

    @pytest.hookimpl(trylast=True)  # of what is left by `-k` and the like
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the others'."""
        files = sorted({item.path for item in items})
        mine = set(files[self._number - 1 :: self._of])
        config.hook.pytest_deselected(items=[item for item in items if item.path not in mine])
        items[:] = [item for item in items if item.path in mine]


def part_asked_for() -> Part | None:
    """The part that the environment names, as ``1/2``; None for all.

    Raises:
        pytest.UsageError: it is no part.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    found = re.fullmatch(r"([1-9])/([1-9])", text)
    if found is None or int(found[1]) > int(found[2]):
        raise pytest.UsageError(f"expected {VARIABLE} to be a part as 1/2, got {text!r}")
    return Part(int(found[1]), int(found[2]))
