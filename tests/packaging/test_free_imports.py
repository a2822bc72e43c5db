"""Importing any module of formrelay, in any order, has no side effects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support import checkout

#: Programs, and modules of a Django project, whose import has side effects on purpose.
PROGRAMS = ("formrelay.__main__", "formrelay.worker", "formrelay.djangoapp", "formrelay.examples")


def modules() -> list[str]:
    """Names of all modules of the package, except :data:`PROGRAMS`."""
    names = (path.removesuffix(".py") for path in checkout.installed_files() if path[-3:] == ".py")
    dotted = (name.removesuffix("/__init__").replace("/", ".") for name in names)
    return sorted(name for name in dotted if not name.startswith(PROGRAMS))


def test_importing_reads_no_configuration_makes_no_broker_and_starts_no_thread(
    tmp_path: Path,
) -> None:
    names = modules()
    assert {"formrelay.actors", "formrelay.actors.webhooks.actor", "formrelay.ops.worker.boot"} <= {
        *names
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fresh_import"],
        input="\n".join(names),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == []


def test_an_actor_is_declared_once_however_many_threads_use_it_first(tmp_path: Path) -> None:
    unused = "redis://127.0.0.1:1/0"  # no server listens there
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.first_use"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(checkout.ROOT),
            "REDIS_URL": unused,
            "API_URL": "http://127.0.0.1:1",
            "API_TOKEN": "token",
            "CLICKHOUSE_URL": "http://127.0.0.1:1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["uses"] == 48
    assert found["declared"] == {"deliver_webhook": 1, "record_events": 1, "save_submission": 1}
    assert set(found["added"].values()) == {1}, found["added"]
