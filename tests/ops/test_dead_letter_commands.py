"""``formrelay dlq`` and ``jobs cancel``: groups, files, stopping, and questions."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq

from formrelay.brokers.embedded import ensure_running, release
from formrelay.brokers.envelope import encode
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.saved_letters import SavedLetter
from formrelay.brokers.settlement import as_dead_letter
from formrelay.core.error_groups import group_id
from formrelay.core.failure import Failure, Reason
from tests.ops.shell import Shell
from tests.support.command import clean_environment
from tests.support.waiting import wait_until

TEXTS = ("the endpoint answered 503", "the endpoint answered 500", "no endpoint 'x'")


@contextmanager
def broker_of(shell: Shell) -> Iterator[RedisBroker]:
    """The embedded broker of the folder."""
    folder = shell.folder / ".formrelay"
    broker = RedisBroker(ensure_running(folder))
    broker.declare_queue("webhooks")
    try:
        yield broker
    finally:
        broker.close()
        release(folder)


def failed(text: str) -> Failure:
    at = "2026-01-31T09:30:00Z"
    return Failure(Reason.NOT_RETRIED, "x.SinkTransient", text, at, 1, "w:1")


def bury(broker: RedisBroker, texts: tuple[str, ...] = TEXTS) -> list[str]:
    """Create dead letters of the queue webhooks; returns their ids."""
    made = [dramatiq.Message("webhooks", "deliver_webhook", (), {}, {}) for _ in texts]
    letters = [
        SavedLetter("webhooks", message.message_id, encode(as_dead_letter(message, failed(text))))
        for message, text in zip(made, texts, strict=True)
    ]
    assert broker.inspector.add_dead("webhooks", letters) == len(texts)
    return [message.message_id for message in made]


def test_dead_letters_are_grouped_and_a_group_is_replayed(shell: Shell) -> None:
    with broker_of(shell) as broker:
        ids = bury(broker)
        found = shell.json("dlq", "groups")
        assert (found["looked_at"], found["count"], found["complete"]) == (3, 3, True)
        group = found["groups"][0]
        assert group["id"] == group_id(failed(TEXTS[0]))
        assert (group["count"], group["message"]) == (2, "the endpoint answered <number>")
        assert group["example"]["id"] in ids[:2]
        done = shell("dlq", "groups", "--queue", "webhooks", "--look-at", "1")
        assert done.stdout.splitlines()[0].split() == [
            "group",
            "at",
            "least",
            *("last", "actors"),
            "error",
        ]
        assert "looked at 1, found 1, dead-lettered from" in done.stderr
        assert "there are more" in done.stderr
        listed = shell.json("dlq", "list", "--group", group["id"])
        assert {letter["id"] for letter in listed} == set(ids[:2])
        options = ("--group", group["id"])
        dry = shell("dlq", "replay", *options, "--dry-run")
        assert dry.stdout == "would be replayed: 2\n"
        assert shell("dlq", "replay", *options, "--rate", "1000").stdout == "replayed: 2\n"
        assert broker.counts("webhooks").dead == 1
        wrong = shell("dlq", "delete", "--group", "all", status=2)
        assert "expected the id of a group" in wrong.stderr


def test_exported_dead_letters_are_imported_once_and_wrong_lines_are_named(shell: Shell) -> None:
    with broker_of(shell) as broker:
        ids = bury(broker)
        keys = broker.keys
        before = broker.client.hgetall(keys.dead_bodies("webhooks"))
        shell("dlq", "export", "--queue", "webhooks", "--output", "dead.ndjson")
        file = shell.folder / "dead.ndjson"
        assert file.stat().st_mode & 0o077 == 0  # it contains personal data
        assert "got: File exists" in shell("dlq", "export", "-o", "dead.ndjson", status=2).stderr
        one = shell("dlq", "export", "--group", group_id(failed(TEXTS[2])))
        assert json.loads(one.stdout)["id"] == ids[2]
        assert "exported: 1" in one.stderr
        assert shell("dlq", "delete", "--all", "--yes").stdout == "deleted: 3\n"
        lines = file.read_text().splitlines()
        unknown = json.dumps({**json.loads(lines[0]), "queue": "nope"})
        text = "\n".join([lines[0], "{", "", unknown, *lines[1:], lines[0]]) + "\n"
        dry = shell("dlq", "import", "-", "--dry-run", stdin=text, status=1)
        assert dry.stdout == "would be imported: 4, wrong: 2\n"
        done = shell("dlq", "import", "-", stdin=text, status=1)
        assert done.stdout == "imported: 3, already there: 1, wrong: 2\n"
        errors = done.stderr.splitlines()
        assert errors[0] == "line 2: expected JSON, got something else"
        assert errors[1].startswith("line 4: expected a queue that exists, got 'nope'")
        again = shell.json("dlq", "import", "dead.ndjson")
        assert again == {"imported": 0, "already_there": 3, "wrong": 0, "dry_run": False}
        assert broker.client.hgetall(keys.dead_bodies("webhooks")) == before


def start(shell: Shell, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "formrelay", *arguments],
        cwd=shell.folder,
        env=clean_environment(**shell.env),
        **streams,
    )


def test_ctrl_c_stops_a_replay_after_its_step_and_it_can_be_run_again(shell: Shell) -> None:
    with broker_of(shell) as broker:
        bury(broker)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Would take an hour.
        process = start(shell, "dlq", "replay", "--all", "--rate", "0.001", **pipes)
        wait_until(lambda: broker.counts("webhooks").waiting == 1, every=0.3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, b"replayed: 1\n")
        assert b"stopping after this step" in error
        assert b"run the same command again to continue" in error
        assert shell("dlq", "replay", "--all").stdout == "replayed: 2\n"
        assert broker.counts("webhooks").waiting == 3


def test_a_terminal_is_asked_before_dead_letters_are_deleted(shell: Shell) -> None:
    with broker_of(shell) as broker:
        bury(broker)
        main, other = pty.openpty()
        streams = {"stdin": other, "stderr": other, "stdout": subprocess.PIPE}
        process = start(shell, "dlq", "delete", "--all", "--queue", "webhooks", **streams)
        os.write(main, b"n\n")
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 1
        shown = os.read(main, 10_000).decode()
        assert "Delete 3 dead letters (queue webhooks)? [y/N]" in shown
        os.close(main)
        os.close(other)
        assert broker.counts("webhooks").dead == 3


def test_waiting_and_scheduled_jobs_are_cancelled_by_prefix(shell: Shell) -> None:
    waiting = shell.send("https://127.0.0.1/a")
    scheduled = shell.send("https://127.0.0.1/b", "--delay", "3600")
    assert shell("jobs", "cancel", waiting[:8], scheduled).stdout == "cancelled: 2\n"
    counts = shell.queue("webhooks")
    assert (counts["waiting"], counts["scheduled"]) == (0, 0)
    gone = shell("jobs", "cancel", waiting, status=1)
    assert f"there is no job '{waiting}', or it is done" in gone.stderr
    with broker_of(shell) as broker:
        (dead,) = bury(broker, TEXTS[:1])
        error = shell("jobs", "cancel", dead, status=1).stderr
        assert "is dead-lettered: formrelay dlq delete deletes it" in error
