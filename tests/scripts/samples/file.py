"""A test file of the sample suite."""

from __future__ import annotations

from pathlib import Path


def test_x(module: str) -> None:
    assert module == Path(__file__).parent.name


def test_y(module: str) -> None:
    pass
