"""``manage.py formrelay …``: every command, with the project's settings and actors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.djangoapp.host import Host
from tests.djangoapp.test_worker import worker
from tests.support.command import clean_environment, run_python
from tests.support.waiting import wait_until


def test_config_shows_the_settings_of_the_project(tmp_path: Path) -> None:
    settings = {"FORMRELAY": {"BROKER": "embedded", "API_TOKEN": "hunter2"}}
    host = Host(tmp_path, settings=settings, env={"LOG_LEVEL": "ERROR"})
    done = host.manage("formrelay", "config", "--json")
    rows = {row["name"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows["BROKER"] == ("embedded", "FORMRELAY")
    assert rows["API_TOKEN"] == ("***", "FORMRELAY")
    assert rows["LOG_LEVEL"] == ("ERROR", "environment")
    host.settings["FORMRELAY"] = ["BROKER"]
    done = host.manage("formrelay", "config")
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected the setting FORMRELAY to be a dictionary" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("queues", "--json"),
        ("queues", "purge", "nope"),
        ("workers",),
        ("jobs", "list", "--queue", "webhooks"),
        ("dlq", "list"),
        ("dlq", "show", "nope"),
        ("jobs", "list", "--state", "lost"),
        ("schema", "webhook.send"),
        ("--version",),
    ],
    ids=" ".join,
)
def test_output_and_exit_status_are_those_of_the_command(
    tmp_path: Path, redis_url: str, words: tuple[str, ...]
) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": redis_url}})
    # The same actors: those of formrelay and of the project's app.
    env = clean_environment(REDIS_URL=redis_url, PYTHONPATH=host.env["PYTHONPATH"])
    alone = run_python("-m", "formrelay", *words, cwd=tmp_path, env=env)
    ours = host.manage("formrelay", *words)
    assert "Traceback" not in ours.stderr
    mine = {"queue": "notes", "waiting": 0}
    if words[0] == "queues" and "--json" in words:
        rows = json.loads(ours.stdout)
        (notes,) = (row for row in rows if row["queue"] == "notes")
        assert notes.items() >= mine.items()
        assert [row for row in rows if row is not notes] == json.loads(alone.stdout)
        return
    assert ours.returncode == alone.returncode
    assert ours.stdout == alone.stdout
    told = ours.stderr.replace("manage.py formrelay", "formrelay").replace("notes, ", "")
    assert told == alone.stderr.replace("python -m formrelay", "formrelay")


@pytest.mark.slow
def test_the_worker_has_the_actors_of_the_project(host: Host) -> None:
    host.call("project.write_note")
    host.settings["FORMRELAY"] |= {"API_URL": "http://127.0.0.1:1"}
    with worker(host, "--queue", "notes", "--threads", "1", command=("formrelay", "worker")):
        wait_until(host.notes)


def test_a_worker_that_would_keep_its_jobs_is_refused(host: Host) -> None:
    host.settings["FORMRELAY_KEEP_JOBS"] = True
    done = host.manage("formrelay", "worker", "--queue", "notes")
    assert done.returncode == 2
    assert "FORMRELAY_KEEP_JOBS to be False for a worker" in done.stderr
