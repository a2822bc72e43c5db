"""``formrelay health``: exit status 0 if jobs run now, otherwise 1."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from formrelay.brokers import QueueCounts, RelayBroker
from formrelay.core.errors import FormrelayError
from formrelay.ops.health.check import check_health, queues_result, workers_result
from tests.ops.shell import Shell
from tests.support.command import run
from tests.support.waiting import wait_until

EVENT = '{"type": "form.viewed", "formId": "f1"}'


def parts(shell: Shell, *options: str, status: int) -> dict[str, tuple[bool, str]]:
    found = shell.json("health", *options, status=status)
    assert found["status"] == ("failed" if status else "ok")
    return {one["part"]: (one["ok"], one["says"]) for one in found["parts"]}


def test_queues_with_jobs_need_a_live_worker(tmp_path: Path) -> None:
    shell = Shell(tmp_path, CLICKHOUSE_URL="clickhouse://127.0.0.1:1")
    found = parts(shell, status=1)
    assert found["broker"][1].startswith("embedded answers in ")
    assert found["store"][0]
    assert found["workers"] == (False, "none is alive: run formrelay worker")
    assert found["queues"][0]  # they are empty
    with shell.worker("webhooks"):
        wait_until(lambda: run("health", cwd=tmp_path, env=shell.env).returncode == 0, every=0.3)
        assert parts(shell, "--here", status=0).keys() == {"broker", "store", "workers"}
        shell("send", "events", EVENT)
        stuck, said = parts(shell, status=1)["queues"]
        assert not stuck
        assert said.startswith("without a worker: events (1 job); empty and without a worker: ")
        assert parts(shell, "--here", status=0)["workers"][1].startswith("1 alive on ")
        shell("queues", "pause", "events")
        found = parts(shell, "--sinks", status=1)
        assert found["queues"][0]
        assert not found["clickhouse"][0]
        assert not found["api"][0]
        assert "expected 127.0.0.1:1 to accept a connection" in found["api"][1]


def test_a_broker_that_is_down_is_one_line_for_each_part(tmp_path: Path) -> None:
    done = run("health", cwd=tmp_path, env={"REDIS_URL": "redis://127.0.0.1:1"})
    assert done.returncode == 1
    _, broker, *others = done.stdout.splitlines()
    assert "expected Redis at 127.0.0.1:1 to answer" in broker
    assert all("not known: the broker does not answer" in line for line in others)
    assert len(others) == 3


def test_a_missing_configuration_is_no_success(tmp_path: Path) -> None:
    done = run("health", "--json", cwd=tmp_path, env={})
    assert done.returncode == 1
    assert "expected BROKER, REDIS_URL or RABBITMQ_URL to be set" in done.stdout


def test_a_server_that_hangs_does_not_hang_the_check() -> None:
    never = threading.Event()

    def open_broker() -> RelayBroker:
        never.wait()
        raise FormrelayError

    found = check_health(open_broker, sinks=False, only_here=True, timeout=0.01)
    never.set()
    assert [(part.name, part.is_ok) for part in found.parts] == [
        *(("broker", False), ("store", False), ("workers", False))
    ]
    assert {part.says for part in found.parts} == {"no answer within 0.01 s"}


def counts(queue: str, waiting: int, *, scheduled: int | None = 0, paused: bool = False) -> Any:
    return QueueCounts(queue, waiting, scheduled, 0, 0, paused)


@pytest.mark.parametrize(
    ("found", "is_ok", "says"),
    [
        ([counts("a", 5)], True, "each queue with jobs has a worker"),
        ([counts("b", 5)], False, "without a worker: b (5 jobs)"),
        ([counts("c", 0, scheduled=2)], False, "without a worker: c (2 jobs)"),
        (
            [counts("c", 5, paused=True)],
            True,
            "each queue with jobs has a worker; paused: c",
        ),
        (
            [counts(f"q{number}", 0, scheduled=None) for number in range(7)],
            True,
            "each queue with jobs has a worker; "
            "empty and without a worker: q0, q1, q2, q3, q4 and 2 more",
        ),
    ],
)
def test_a_queue_without_a_live_worker_fails_if_it_has_jobs(
    found: list[QueueCounts], is_ok: bool, says: str
) -> None:
    part = queues_result(found, {"a"})
    assert (part.is_ok, part.says) == (is_ok, says)


def test_without_a_list_of_workers_queues_do_not_fail() -> None:
    part = queues_result([counts("a", 5)], None)
    assert (part.is_ok, part.says) == (True, "1 known")


@pytest.mark.rabbitmq
def test_rabbitmq_tells_which_queue_has_no_worker_without_its_api(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    shell = Shell(tmp_path, BROKER="rabbitmq", RABBITMQ_URL=rabbitmq_url)
    del shell.env["API_URL"]
    jobs = f"{EVENT}\n{{}}\n{EVENT}\n"
    assert shell("send", "events", stdin=jobs, status=1).stdout == "sent: 2, invalid: 1\n"
    found = parts(shell, status=1)
    assert found["store"] == (True, "none is shared: set STATE_URL to a Redis URL")
    assert found["workers"][0]
    assert "set RABBITMQ_API_URL or STATE_URL" in found["workers"][1]
    assert found["queues"][1].startswith("without a worker: events (2 jobs)")
    assert not parts(shell, "--here", status=1)["workers"][0]
    said = shell("doctor", "--queue", "webhooks").stdout
    assert "RabbitMQ lists workers only with STATE_URL or RABBITMQ_API_URL; set one" in said
    assert ", RabbitMQ " in said
    said = shell("doctor", "--queue", "events", status=1).stdout  # ClickHouse is not set up
    assert "without a worker: events (2 jobs)" in said
    # A management API that fails is a finding and a note; the others are answered.
    shell.env["RABBITMQ_API_URL"] = "http://user:secret@127.0.0.1:1/api"
    said = " ".join(found["says"] for found in shell.json("doctor", status=1))
    assert "management API at 127.0.0.1:1 to answer" in said
    queues = shell("queues")
    assert "note: expected RabbitMQ's management API at 127.0.0.1:1 to answer" in queues.stderr
    assert "webhooks" in queues.stdout
    assert "secret" not in said + queues.stderr


def worker(name: str, state: str = "ok", why: str = "") -> dict[str, Any]:
    alive = state not in ("died", "silent")
    return {"id": name, "name": name, "alive": alive, "state": state, "why": why or None}


def test_workers_that_do_not_work_are_told_apart() -> None:
    fine, silent, died = worker("a:1"), worker("a:2", "silent"), worker("a:5", "died")
    hangs, cut_off = worker("a:3", "hangs"), worker("a:4", "no_broker", "no answer")
    assert workers_result([fine], only_here=False).is_ok
    # Other workers run the jobs of these.
    found = workers_result([fine, silent, died], only_here=False)
    assert (found.is_ok, found.says) == (True, "1 alive; died: a:5; silent: a:2")
    found = workers_result([fine, hangs, cut_off], only_here=False)
    assert (found.is_ok, found.says) == (
        False,
        "3 alive; hangs: a:3; without the broker: a:4 (no answer)",
    )
    assert not workers_result([died], only_here=False).is_ok
    gone = {**hangs, "alive": False}  # the whole process: it reports nothing
    assert workers_result([gone], only_here=False).says == "none takes jobs; hangs: a:3"
