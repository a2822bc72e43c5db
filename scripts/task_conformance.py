#!/usr/bin/env python3
"""Run the tests of django-tasks, or of django.tasks, with formrelay's backend and a real Redis.

    .venv/bin/python scripts/task_conformance.py FOLDER             # a clone of django-tasks
    .venv/bin/python scripts/task_conformance.py FOLDER --django    # an unpacked sdist of Django 6

The tests are copied to a temporary folder, and Django's DummyBackend and ImmediateBackend are
replaced by the backends of tests/djangoapp/conformance.py. docs/django-tasks.md has the numbers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.servers import RedisServer  # noqa: E402

#: The suites that are about a backend.
SUITES = ("test_tasks", "test_dummy_backend", "test_immediate_backend")
BASE = "from backport.settings import *; ROOT_URLCONF = 'backport.urls'"
APPS = "['backport' if app == 'tests' else app for app in INSTALLED_APPS]"
SETTINGS = """
{base}
INSTALLED_APPS = ["formrelay.djangoapp", *{apps}]
DATABASES = {{name: {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
             for name in ("default", "other")}}
FORMRELAY = {{"REDIS_URL": {redis!r}}}
TASKS = {{"default": {{"BACKEND": "tests.djangoapp.conformance.Running", "QUEUES": []}}}}
"""


def main() -> int:
    """Run the suites; the exit status is 1 if a test fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--django", action="store_true", help="the folder is an sdist of Django 6")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RedisServer() as redis:
        folder = Path(name)
        package = copy_django(given.folder, folder) if given.django else copy(given.folder, folder)
        settings = SETTINGS.format(
            base="SECRET_KEY = 'x'; USE_TZ = False" if given.django else BASE,
            apps='["tasks"]' if given.django else APPS,
            redis=redis.url,
        )
        (folder / "conformance_settings.py").write_text(settings)
        return max(run(f"{package}.{suite}", folder) for suite in SUITES)


def copy(source: Path, folder: Path) -> str:
    """Copy the tests of django-tasks, whose package has the name of ours."""
    shutil.copytree(source / "tests", folder / "backport")
    replace(folder / "backport", "django_tasks", {"from tests import": "from backport import"})
    return "backport.tests"


def copy_django(source: Path, folder: Path) -> str:
    """Copy the tests of django.tasks."""
    shutil.copytree(source / "tests" / "tasks", folder / "tasks")
    (folder / "tasks" / "__init__.py").touch()
    replace(folder / "tasks", "django.tasks", {})
    return "tasks"


def replace(folder: Path, package: str, words: dict[str, str]) -> None:
    """Put the backends of this package into the tests."""
    ours = "tests.djangoapp.conformance"
    for kind, name in (("dummy", "Waiting"), ("immediate", "Running")):
        theirs = f"{package}.backends.{kind}"
        backend = f"{kind.capitalize()}Backend"
        words[f"{theirs}.{backend}"] = f"{ours}.{name}"
        words[f"from {theirs} import {backend}"] = f"from {ours} import {name} as {backend}"
    words['"tests.'] = '"backport.'
    words[f'"backport.{ours.removeprefix("tests.")}'] = f'"{ours}'
    for file in folder.rglob("*.py"):
        text = file.read_text()
        for old, new in words.items():
            text = text.replace(old, new)
        file.write_text(text)


def run(suite: str, folder: Path) -> int:
    """Run a suite of Django's runner; print the failing tests and the last lines."""
    print(f"== {suite}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", suite],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": f"{folder}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "conformance_settings",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    if not any(line.startswith("Ran") for line in lines):
        print(done.stderr, file=sys.stderr)
    print(*[line for line in lines if line.startswith(("FAIL", "ERROR:", "Ran", "OK"))], sep="\n")
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
