"""The conftest.py of a folder of that suite: fixtures that live longer than a test."""

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
    """The folder's name."""
    assert begun == [1]  # it began once, and did not end between two files
    return Path(__file__).parent.name
