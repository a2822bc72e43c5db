"""The start of docs/django.md: a new project gets tasks in a worker by these lines alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django
import pytest

from tests.support.checkout import ROOT
from tests.support.command import clean_environment, run_python, start_python
from tests.support.waiting import wait_until

TEXT = (ROOT / "docs/django.md").read_text()
BLOCKS = dict(re.findall(r"```py\n# (\S+\.py)\n(.*?)```", TEXT, re.S))
COMMANDS = [shlex.split(line, comments=True) for line in TEXT.split("```sh\n")[1].splitlines()[:3]]
ENV = clean_environment(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Path:
    """A new project with an app, and the lines of the document."""
    run(tmp_path, "-m", "django", "startproject", "site_of_the_shop", ".")
    run(tmp_path, "manage.py", "startapp", "shop")
    tasks, settings = BLOCKS["shop/tasks.py"], BLOCKS["settings.py"]
    if django.VERSION < (6, 0):  # the other row of the table
        tasks = tasks.replace("from django.tasks import", "from django_tasks import")
        settings += 'INSTALLED_APPS += ["django_tasks"]\n'
    settings = settings.replace("redis://host:6379/0", redis_url)
    (tmp_path / "shop/tasks.py").write_text(tasks)
    with (tmp_path / "site_of_the_shop/settings.py").open("a") as file:
        file.write(settings + 'INSTALLED_APPS += ["shop"]\n')
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    done = run_python(*arguments, cwd=folder, env=ENV)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Path]:
    """A program until the end of the block; its output."""
    output = folder / "output"
    process = start_python(*arguments, cwd=folder, env=ENV, log=output, may_exec=True)
    try:
        yield output
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_new_project_runs_the_task_of_the_document(project: Path) -> None:
    enqueue, work, look = ([word for word in words if word != "python"] for words in COMMANDS)
    assert "formrelay.W" not in run(project, "manage.py", "check")
    run(project, *enqueue)
    with running(project, *work) as output:
        wait_until(lambda: "invoice for order 42" in output.read_text())
    assert "no dead letters" in run(project, *look)
