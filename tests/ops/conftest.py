"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with an embedded broker that starts with the first command."""
    return Shell(tmp_path)
