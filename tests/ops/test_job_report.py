"""``jobs show`` and ``dlq show``: a page on a terminal of 80 columns, JSON everywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ops.dashboard.conftest import Site, site
from tests.ops.dashboard.helpers import FAILURE
from tests.ops.shell import Shell

__all__ = ["site"]

PARENT, CHILD = "7d1b8a52-0d6e-4a4b-9f43-2f4a1f0f0001", "7d1b8a52-0d6e-4a4b-9f43-2f4a1f0f0002"
DONE = "00000000-0d6e-4a4b-9f43-2f4a1f0f0003"
LONG = "the endpoint answers with a long text " * 7
HISTORY = [
    {"attempt": 1, "at": 1_789_999_000.5, "outcome": "retry", "error": "a.b.Busy", "message": LONG},
    {"attempt": 2, "at": 1_789_999_100, "outcome": "defer", "message": "away", "count": 1_200},
]


@pytest.fixture
def shell(site: Site, redis_url: str, tmp_path: Path) -> Shell:
    """A shell on a Redis with a job, a dead letter that it caused, and a job caused by another."""
    options = {"failure": FAILURE, "attempt_history": HISTORY, "caused_by": PARENT}
    call = {"payload": {"name": "Ann Other"}}
    site.add("webhooks", "dead", CHILD, options=options, kwargs=call)
    site.add("submissions", "scheduled", PARENT, options={"caused_by": DONE})
    return Shell(tmp_path, BROKER="redis", REDIS_URL=redis_url)


def test_a_terminal_shows_a_page_of_80_columns_with_whole_ids(shell: Shell) -> None:
    for command in (("jobs", "show", CHILD), ("dlq", "show", CHILD[:-1])):
        status, shown = shell.on_terminal(*command)
        assert status == 0
        lines = shown.splitlines()
        assert max(map(len, lines)) <= 80
        text = " ".join(" ".join(lines).split())
        assert f"id {CHILD}" in text
        assert f"caused by {PARENT}" in text
        assert "last failure formrelay.core.errors.SinkPermanent: status 404" in text
        for part in ("Attempts", "deferred 1,200 times", "Busy", "SinkPermanent status 404"):
            assert part in text
        assert LONG.strip() in text
        assert "Ann" not in text
        assert "••• 9 characters" in text
    assert "Jobs it caused" not in shown  # of a dead letter, jobs show tells it
    _, shown = shell.on_terminal("jobs", "show", PARENT)
    (row,) = [line for line in shown.splitlines() if CHILD in line]
    assert "deliver" in row
    assert "looked at all 2 jobs of all queues" in shown


def test_a_pipe_and_json_get_json_with_the_attempts_and_both_directions(shell: Shell) -> None:
    found = json.loads(shell("jobs", "show", CHILD).stdout)
    assert [each["outcome"] for each in found["attempt_history"]] == ["retry", "defer", "dead"]
    assert found["attempt_history"][0]["at"] == "2026-09-21T13:56:40.500Z"
    assert found["caused_by"] == PARENT
    assert found["caused"] == {"jobs": [], "looked_at": 2, "is_complete": True}
    _, shown = shell.on_terminal("jobs", "show", PARENT, "--json")
    caused = json.loads(shown)["caused"]
    assert [(each["id"], each["state"]) for each in caused["jobs"]] == [(CHILD, "dead")]
    listed = shell.json("jobs", "list", "--state", "dead", "--caused-by", PARENT)
    assert [each["id"] for each in listed["entries"]] == [CHILD]
    assert shell.json("jobs", "list", "--state", "dead", "--caused-by", DONE)["entries"] == []


def test_a_job_that_is_done_shows_what_it_caused(shell: Shell) -> None:
    found = json.loads(shell("jobs", "show", DONE).stdout)
    assert (found["id"], found["state"]) == (DONE, None)
    assert [each["id"] for each in found["caused"]["jobs"]] == [PARENT]
    status, shown = shell.on_terminal("jobs", "show", DONE)
    assert status == 0
    assert "or it is done" in shown
    assert PARENT in shown
    failed = shell("jobs", "show", "nobody", status=1)
    assert "there is no job 'nobody', or it is done" in failed.stderr
