"""The conftest.py of each folder of the sample suite: fixtures of package and module scope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

begun: list[int] = []


@pytest.fixture(scope="package")
def package() -> Iterator[None]:
    begun.append(1)
    yield
    begun.append(0)


@pytest.fixture(scope="module")
def module(package: None) -> str:
    """Name of the folder."""
    assert begun == [1]  # set up once, and not torn down between two files
    return Path(__file__).parent.name
