"""The ways to a ClickHouse, each a real engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from formrelay.sinks.clickhouse import ClickHouse, connect

Opener = Callable[..., ClickHouse]


def open_clickhouse(url: str, database: str, **changes: Any) -> ClickHouse:
    options: dict[str, Any] = {
        "user": "default",
        "password": lambda: None,
        "timeout": timedelta(seconds=10),
        "connect_timeout": timedelta(seconds=1),
    }
    return connect(url, database=database, **(options | changes))


@pytest.fixture(scope="session")
def modern_http_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A modern engine behind HTTP, in a process of its own; see chdb_http.py."""
    folder = tmp_path_factory.mktemp("chdb_http") / "data"
    command = [sys.executable, str(Path(__file__).with_name("chdb_http.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


@pytest.fixture(scope="module")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder for the engine in this process, open as long as the module's tests run.

    The engine takes one folder a process and 0.5 s to open.
    """
    url = f"chdb://{tmp_path_factory.mktemp('chdb')}/a folder/data"
    keeper = open_clickhouse(url, "keeper")
    keeper.ping()
    yield url
    keeper.close()
