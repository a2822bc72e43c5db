"""Fixtures of the tests of commands."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with an embedded broker that starts with the first command."""
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def api_url() -> Iterator[str]:
    """The URL of an API that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
