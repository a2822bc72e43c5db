"""Tasks of Django's Tasks API in a worker of the project, which the tests of a broker share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.djangoapp.host import Host
from tests.djangoapp.test_tasks import ONE, finished, result, signals, tasked, texts
from tests.djangoapp.test_worker import worker
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.redis]),
    ],
)
def chores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """The project with tasks, whose results are kept in Redis, and a running worker."""
    redis_url = request.getfixturevalue("redis_url_of_module")
    broker = {"REDIS_URL": redis_url}
    if request.param == "rabbitmq":
        broker = {
            "RABBITMQ_URL": request.getfixturevalue("rabbitmq_url_of_module"),
            "STATE_URL": redis_url,
        }
    folder = tmp_path_factory.mktemp(request.param)
    host = tasked(Host(folder, settings={"FORMRELAY": broker}).migrated())
    with worker(host, *ONE):
        yield host


def test_tasks_run_in_a_worker_and_their_results_are_kept(chores: Host) -> None:
    plain = chores.call("tasks.send", "note", "plain")
    ids = [plain, chores.call("tasks.send", "note_async", "async")]
    ids.append(chores.call("tasks.send", "far", "far"))
    found = [finished(chores, id) for id in ids]
    assert {"async", "far", "plain"} <= set(texts(chores))
    assert [each["status"] for each in found] == ["SUCCESSFUL"] * 3
    assert [each["value"] for each in found] == [5, "async", None]
    assert [each["path"] for each in found] == [
        "chores.tasks.note",
        "chores.tasks.note_async",
        "chores.elsewhere.far",
    ]
    assert found[0]["args"] == ["plain"]
    assert [each["attempts"] for each in found] == [1, 1, 1]
    assert [each["times"] for each in found] == [[True] * 3] * 3


def test_a_task_is_retried_and_its_context_counts_the_attempts(chores: Host) -> None:
    id = chores.call("tasks.send", "attempts", 3)
    found = finished(chores, id)
    attempts = [text for text in texts(chores) if text.startswith("attempt")]
    assert attempts == ["attempt 1", "attempt 2", "attempt 3"]
    assert found["value"] == {"id": id, "status": "RUNNING"}
    assert (found["attempts"], found["errors"]) == (3, ["LookupError"] * 2)
    found_signals = signals(chores, id)
    found_signals.remove(["enqueued", "READY"])  # sent by another process than the others
    assert found_signals == [["started", "RUNNING"]] * 3 + [["finished", "SUCCESSFUL"]]


def test_a_task_that_fails_for_good_is_a_dead_letter_that_can_be_replayed(chores: Host) -> None:
    id = chores.call("tasks.send", "broken", "repaired")
    found = finished(chores, id)
    assert (found["status"], found["attempts"]) == ("FAILED", 3)
    assert found["errors"] == ["ValueError"] * 3
    assert signals(chores, id)[-1] == ["finished", "FAILED"]
    listed = chores.manage("formrelay", "dlq", "list", "--queue", "slow", "--json")
    (letter,) = json.loads(listed.stdout)
    assert (letter["id"], letter["actor"]) == (id, "chores.tasks.broken")
    (chores.folder / "repaired").touch()
    done = chores.manage("formrelay", "dlq", "replay", "--actor", "chores.tasks.broken")
    assert done.stdout == "replayed: 1\n", done.stderr
    wait_until(lambda: signals(chores, id)[-1] == ["finished", "SUCCESSFUL"])
    assert texts(chores).count("repaired") == 1
    assert result(chores, id)["status"] == "SUCCESSFUL"


def test_a_return_value_that_is_no_json_is_a_dead_letter_after_one_attempt(chores: Host) -> None:
    id = chores.call("tasks.send", "returns_what_is_no_json")
    found = finished(chores, id)
    assert (found["status"], found["attempts"], found["errors"]) == ("FAILED", 1, ["TypeError"])
    assert texts(chores).count("has run") == 1
    assert ["chores.tasks.returns_what_is_no_json", "invalid"] in chores.call("tasks.dead")


def test_the_time_limit_cancels_an_async_task(chores: Host) -> None:
    id = chores.call("tasks.send", "too_long")
    found = finished(chores, id)
    assert (chores.folder / "cancelled").exists()
    assert (found["status"], found["errors"]) == ("FAILED", ["TimeLimitExceeded"])
    assert texts(chores).count("begun") == 1


def test_a_task_enqueued_in_a_coroutine_with_a_time_runs_at_that_time(chores: Host) -> None:
    soon = chores.call("tasks.later", 2)
    chores.call("tasks.from_async")
    wait_until(lambda: "from async" in texts(chores))
    found = finished(chores, soon)
    (due,) = found["args"]
    assert due in texts(chores)
    assert datetime.fromisoformat(found["started"]) >= datetime.fromisoformat(due)


def test_a_message_runs_only_tasks(chores: Host) -> None:
    names = chores.call("tasks.send_other_functions")
    dead = [[name, "unknown_actor"] for name in names]
    wait_until(lambda: all(letter in chores.call("tasks.dead") for letter in dead), every=0.3)
    assert "x" not in texts(chores)
    assert not (chores.folder / "x").exists()
