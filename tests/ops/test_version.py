"""``formrelay version``."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

from formrelay import __version__
from tests.ops.shell import Shell
from tests.support.command import run


def test_versions_of_packages_and_servers_are_printed(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    found = shell.json("version")
    assert found["formrelay"] == __version__
    assert found["python"] == platform.python_version()
    assert found["dramatiq"] == metadata.version("dramatiq")
    assert found["broker"].startswith(("Valkey ", "Redis "))
    assert "store" not in found  # the same server
    assert "broker" not in shell.json("version", "--offline")


def test_versions_need_no_broker(tmp_path: Path) -> None:
    printed = run("version", cwd=tmp_path, env={}).stdout.splitlines()
    assert printed[1].split() == ["formrelay", __version__]
    done = run("version", "--json", cwd=tmp_path, env={"REDIS_URL": "redis://127.0.0.1:1"})
    assert done.returncode == 0
    assert "broker" not in json.loads(done.stdout)
    assert "note: expected Redis at 127.0.0.1:1 to answer" in done.stderr
