"""Commands that inspect queues, jobs, workers and dead letters, and act on them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from formrelay import __version__
from formrelay.core.durations import BIN_COUNT
from formrelay.state import StateRedis
from formrelay.state.history import Tally
from formrelay.state.redis.history import RedisHistory
from tests.ops.shell import Shell
from tests.support.command import run
from tests.support.waiting import wait_until

EVENT = '{"type": "form.viewed", "formId": "f1"}'


@pytest.fixture
def worker(shell: Shell) -> Iterator[subprocess.Popen[bytes]]:
    with shell.worker("webhooks") as worker:
        yield worker


def send(shell: Shell, form: str, *options: str) -> str:
    """Send a webhook to a private address, which dies at its first attempt; return its id."""
    return shell.send(f"https://127.0.0.1/{form}", *options, body={"formId": form})


# -- queues ---------------------------------------------------------------------------------


def test_a_queue_is_paused_counted_resumed_and_purged(shell: Shell) -> None:
    shell("send", "record_events", EVENT)
    shell("send", "record_events", EVENT, "--delay", "3600")
    assert shell("queues", "pause", "events").stdout == "paused: events\n"
    found = shell.queue("events")
    assert 0 <= found.pop("oldest_age_s") < 60
    assert found == {
        "queue": "events",
        "waiting": 1,
        "scheduled": 1,
        "in_flight": 0,
        "dead": 0,
        "dead_is_lower_bound": False,
        "dead_age_s": None,
        "paused": True,
        "no_worker": False,
        "jobs_per_s": 0.0,
        "error_rate": None,
    }
    header, *rows = shell("queues").stdout.splitlines()
    (events,) = [row for row in rows if row.startswith("events ")]
    names = ["queue", "waiting", "scheduled", "in_flight", "dead"]
    assert header.split() == [*names, "jobs/s", "errors", "oldest", "state"]
    row = events.split()
    assert (row[:7], row[-1]) == (["events", "1", "1", "0", "0", "0", "–"], "paused")
    assert shell.json("queues", "resume", "events") == {"queue": "events", "done": "resumed"}
    assert shell.queue("events")["paused"] is False
    assert shell("queues", "purge", "events", "--dry-run").stdout == "would be deleted: 2\n"
    assert shell.queue("events")["waiting"] == 1
    assert shell("queues", "purge", "events").stdout == "deleted: 2\n"
    assert shell.queue("events")["waiting"] == 0


def test_a_queue_whose_messages_no_worker_takes_is_marked(shell: Shell) -> None:
    shell("send", "record_events", EVENT)
    status, shown = shell.on_terminal("queues")
    (events,) = [line for line in shown.splitlines() if line.startswith("events ")]
    assert (status, events.split()[-2:]) == (0, ["no", "worker"])
    assert max(map(len, shown.splitlines())) <= 80
    assert shell.queue("events")["no_worker"] is True
    assert shell.queue("webhooks")["no_worker"] is False


def test_rates_are_those_of_all_workers_in_the_last_minutes(shell: Shell) -> None:
    with shell.redis_client() as client:
        tally = Tally(done=300, retried=20, dead=10, durations=[330, *[0] * (BIN_COUNT - 1)])
        RedisHistory(StateRedis(client, "embedded")).add({"emails": tally}, source="w1", number=1)
        emails = shell.queue("emails")
        assert emails["jobs_per_s"] == pytest.approx(330 / 270, rel=0.13)  # 4 to 5 minutes
        assert emails["error_rate"] == pytest.approx(30 / 330)
        row = next(row for row in shell("queues").stdout.splitlines() if row.startswith("emails"))
        assert row.split()[5:7] == ["1", "9%"]


def test_the_table_of_queues_is_redrawn_until_ctrl_c(shell: Shell) -> None:
    status, shown = shell.on_terminal("queues", "--watch", until=b"webhooks")
    assert status == 0
    assert "Ctrl-C ends" in shown
    assert "expected a terminal for --watch" in shell("queues", "--watch", status=2).stderr
    assert "got both" in shell("queues", "--watch", "--json", status=2).stderr


def test_a_purge_asks_on_a_terminal_and_says_what_it_would_delete(shell: Shell) -> None:
    shell("send", "record_events", EVENT)
    shell("send", "record_events", EVENT, "--delay", "3600")
    status, shown = shell.on_terminal("queues", "purge", "events", keys=b"n\n")
    assert "Delete 1 waiting and 1 scheduled messages of queue 'events'? [y/N]" in shown
    assert (status, "nothing was changed" in shown) == (1, True)
    assert shell.queue("events")["waiting"] == 1
    assert shell.on_terminal("queues", "purge", "events", keys=b"y\n")[0] == 0
    assert shell.queue("events")["waiting"] == 0
    shell("send", "record_events", EVENT)
    _, shown = shell.on_terminal("queues", "purge", "events", "--yes")
    assert shown == "deleted: 1\r\n"
    (entry, *_) = shell.json("audit", "--action", "queues purge")
    assert (entry["target"], entry["count"]) == ("events", 1)


def test_queues_are_migrated_to_stock_dramatiq(shell: Shell) -> None:
    shell("send", "record_events", EVENT)
    shell("send", "record_events", EVENT, "--delay", "3600")
    shell("queues", "pause", "events")
    expected = {"waiting": 1, "scheduled": 1, "dead": 0, "split": 0, "undecodable": 0}
    for options in (["--dry-run"], []):
        found = shell.json("queues", "to-stock", "events", *options)
        assert found["dry_run"] is bool(options)
        assert found["queues"] == [{"queue": "events", **expected, "paused": True}]
    done = shell("queues", "to-stock")
    rows = [row.split() for row in done.stdout.splitlines()]
    assert ["events", "1", "1", "0", "0", "0", "yes"] in rows
    assert "stock Dramatiq ignores that a queue is paused" in done.stderr
    with shell.redis_client() as client:
        assert client.llen("dramatiq:events.DQ") == 1
        client.zadd("dramatiq:__workers__", {"lives": time.time() * 1000})
    assert "expected no running worker" in shell("queues", "to-stock", status=1).stderr


def test_queues_on_redis_are_not_taken_over_by_a_command(shell: Shell) -> None:
    assert "expected a broker on RabbitMQ" in shell("queues", "from-stock", status=2).stderr


@pytest.mark.parametrize("command", ["pause", "resume", "purge", "to-stock"])
def test_an_unknown_queue_is_wrong_use(shell: Shell, command: str) -> None:
    assert "expected a queue (emails, events," in shell("queues", command, "evnts", status=2).stderr


# -- jobs -----------------------------------------------------------------------------------


def test_jobs_are_listed_by_state_page_by_page(shell: Shell) -> None:
    sent = [send(shell, f"f{number}") for number in range(3)]
    later = send(shell, "f4", "--delay", "3600")
    first = shell.json("jobs", "list", "--queue", "webhooks", "--limit", "2")
    assert [entry["id"] for entry in first["entries"]] == sent[:2]
    more = ("jobs", "list", "--queue", "webhooks", "--cursor", first["cursor"])
    second = shell.json(*more)
    assert [entry["id"] for entry in second["entries"]] == sent[2:]
    assert second["cursor"] is None
    page = shell("jobs", "list", "--queue", "webhooks", "--limit", "2")
    assert page.stderr == f"more results: --cursor {first['cursor']}\n"
    assert "whsec_" not in page.stdout + json.dumps(first)
    (entry,) = shell.json("jobs", "list", "-q", "webhooks", "--state", "scheduled")["entries"]
    assert (entry["id"], entry["state"]) == (later, "scheduled")
    assert entry["due"] > entry["sent_at"]
    header, _ = shell("jobs", "list", "-q", "webhooks", "-s", "scheduled").stdout.splitlines()
    assert header.split() == ["id", "actor", "sent", "due", "last", "failure"]
    empty = shell("jobs", "list", "-q", "webhooks", "--state", "in-flight")
    assert empty.stdout == "no jobs in flight\n"
    assert empty.stderr == "note: in other states: 3 waiting, 1 scheduled (--state)\n"


def test_jobs_of_all_queues_are_found_by_actor_form_and_begin_of_the_id(shell: Shell) -> None:
    first, second = (send(shell, form) for form in ("f1", "f2"))
    shell("send", "record_events", EVENT)

    def listed(*options: str) -> list[str]:
        return [entry["id"] for entry in shell.json("jobs", "list", *options)["entries"]]

    assert len(listed()) == 3
    assert listed("--form", "f2", "--actor", "deliver_webhook") == [second]
    assert listed("--id-prefix", first[:8]) == [first]
    assert listed("--state", "dead", "--id-prefix", first[:8]) == []
    table = shell("jobs", "list", "--actor", "deliver_webhook")
    assert table.stdout.splitlines()[0].split() == [
        "id",
        "queue",
        "actor",
        "sent",
        *("last", "failure"),
    ]
    assert table.stderr == "looked at 3\n"
    limited = shell("jobs", "list", "--actor", "deliver_webhook", "--limit", "1")
    assert limited.stderr.endswith("more results: raise --limit above 1, or name a --queue\n")
    bounded = shell("jobs", "list", "-q", "webhooks", "--form", "f2", "--look-at", "1")
    assert bounded.stdout == "no waiting jobs\n"
    cursor = bounded.stderr.partition("--cursor ")[2].strip()
    assert listed("-q", "webhooks", "--form", "f2", "--cursor", cursor) == [second]
    assert (
        "expected --queue with --cursor" in shell("jobs", "list", "--cursor", "x", status=2).stderr
    )


def test_scheduled_jobs_are_made_due_at_once(shell: Shell) -> None:
    later, waits = send(shell, "f1", "--delay", "3600"), send(shell, "f2")
    assert "it waits for a free worker already" in shell("jobs", "run-now", waits, status=1).stderr
    assert "there is no job 'nope'" in shell("jobs", "run-now", later, "nope", status=1).stderr
    assert json.loads(shell("jobs", "show", later).stdout)["due"] > "2026"
    assert shell("jobs", "run-now", later[:8]).stdout == "due now: 1\n"
    _, row = shell("jobs", "list", "-q", "webhooks", "-s", "scheduled").stdout.splitlines()
    assert row.split()[3] == "now"
    (entry, _) = shell.json("audit", "--action", "jobs run-now")
    assert (entry["target"], entry["count"]) == (later, 1)


def test_a_job_is_shown_completely_in_every_state(shell: Shell) -> None:
    id = send(shell, "f1", "--delay", "3600")
    masked = shell("jobs", "show", id).stdout
    assert json.loads(masked)["message"]["kwargs"]["payload"]["body"] == {
        "formId": "••• 2 characters"
    }
    assert "127.0.0.1" not in masked
    assert "whsec_" not in masked
    assert shell.json("audit", "--action", "jobs show") == []
    shown = json.loads(shell("jobs", "show", id, "--reveal").stdout)
    (entry,) = shell.json("audit", "--action", "jobs show --reveal")
    assert entry["target"] == id
    assert (shown["state"], shown["queue"], shown["actor"]) == (
        "scheduled",
        "webhooks",
        "deliver_webhook",
    )
    assert shown["message"]["kwargs"]["payload"]["body"] == {"formId": "f1"}
    assert "there is no job 'nope'" in shell("jobs", "show", "nope", status=1).stderr


def test_tokens_in_a_job_are_not_shown(shell: Shell) -> None:
    job = {
        "spreadsheetId": "book",
        "range": "Answers",
        "answers": {"Name": "Ann"},
        "auth": {"refresh_token": "1//secret", "access_token": "ya29.secret"},
    }
    id = shell("send", "update_sheet", json.dumps(job), "--delay", "3600").stdout.strip()
    shown = shell("jobs", "show", id, "--reveal").stdout
    assert "secret" not in shown
    payload = json.loads(shown)["message"]["kwargs"]["payload"]
    assert (payload["answers"], payload["auth"]["refresh_token"]) == ({"Name": "Ann"}, "[…]")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--state", "lost"), "expected one of waiting, scheduled, in-flight, dead"),
        (("--cursor", "x"), "start without a cursor"),
    ],
)
def test_a_wrong_option_is_wrong_use(shell: Shell, options: tuple[str, ...], expected: str) -> None:
    done = shell("jobs", "list", "--queue", "webhooks", *options, status=2)
    assert expected in unwrapped(done.stderr)


def test_an_unknown_reason_is_wrong_use(shell: Shell) -> None:
    done = shell("dlq", "list", "--reason", "foo", status=2)
    text = unwrapped(done.stderr)
    assert "expected one of attempts_exhausted, not_retried," in text
    assert "got 'foo'" in text
    assert "Value error" not in text
    assert shell("dlq", "list", "--reason", "crash-loop").stdout == "no dead letters\n"


def unwrapped(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


# -- workers --------------------------------------------------------------------------------


def test_without_workers_the_exit_status_is_1(shell: Shell) -> None:
    assert shell("workers", status=1).stdout == "no workers\n"
    assert shell.json("workers", status=1) == []


@pytest.mark.slow
def test_a_running_worker_is_listed(shell: Shell, worker: subprocess.Popen[bytes]) -> None:
    def found() -> Any:
        done = run("workers", "--json", cwd=shell.folder, env=shell.env)
        workers = json.loads(done.stdout) if done.returncode == 0 else []
        return workers if any(each["version"] for each in workers) else None

    (one,) = wait_until(found)
    assert (one["alive"], one["queues"]) == (True, ["webhooks"])
    assert (one["version"], one["running_count"], one["running"]) == (__version__, 0, [])
    assert one["memory_bytes"] > 10_000_000
    assert ":" in one["name"]
    table = shell("workers").stdout
    assert one["name"] in table
    assert __version__ in table
    assert " MB" in table
    worker.terminate()
    worker.wait(timeout=20)
    shell("workers", status=1)


# -- dead letters ---------------------------------------------------------------------------


def test_dead_letters_are_selected_by_filter_and_by_prefix_of_their_ids(
    shell: Shell, worker: subprocess.Popen[bytes]
) -> None:
    first, second, third = (send(shell, form) for form in ("f1", "f2", "f2"))
    wait_until(lambda: shell.queue("webhooks")["dead"] == 3, every=0.3)
    shell("queues", "pause", "webhooks")  # replayed messages stay on the queue

    def listed(*options: str) -> set[str]:
        return {letter["id"] for letter in shell.json("dlq", "list", *options)}

    assert listed("--form", "f2", "--error", "SinkPermanent") == {second, third}
    (group,) = shell.json("dlq", "groups")["groups"]
    assert listed("--error", group["message"]) == {first, second, third}
    assert listed("--since", "1h", "--reason", "permanent", "--limit", "50") == {
        first,
        second,
        third,
    }
    assert listed("--until", "1h") == set()
    assert listed("--since", "2026-01-01", "--actor", "record_events") == set()
    limited = shell("dlq", "list", "--limit", "2")
    assert len(limited.stdout.splitlines()) == 3  # in a pipe, a row is a line of any length
    assert limited.stderr == "more results: raise --limit above 2\n"

    dry = shell("dlq", "replay", "--form", "f2", "--dry-run")
    assert dry.stdout == "would be replayed: 2\n"
    assert dry.stderr == "selected: form f2\n"
    assert shell("dlq", "replay", "--form", "f2").stdout == "replayed: 2\n"
    assert listed() == {first}
    assert shell.queue("webhooks")["waiting"] == 2
    assert json.loads(shell("dlq", "show", first[:8]).stdout)["id"] == first
    assert shell("dlq", "delete", first[:8], "--dry-run").stdout == "would be deleted: 1\n"
    deleted = shell("dlq", "delete", first[:8], "--json")
    assert json.loads(deleted.stdout) == {"deleted": 1, "dry_run": False}
    assert listed() == set()
    assert "no dead letter" in shell("dlq", "delete", first[:8], status=1).stderr


def test_an_ambiguous_prefix_lists_the_ids_and_changes_nothing(shell: Shell) -> None:
    with shell.redis_client() as client:
        for id in ("ab-1", "ab-2", "cd-1"):  # dead-lettered by another program
            client.hset("dramatiq:events.XQ.msgs", id, b"no message")
            client.zadd("dramatiq:events.XQ", {id: 1_700_000_000_000})
        queue = "events"
        done = shell("dlq", "delete", "cd", "ab", status=2)
        expected = f"'ab' matches several: ab-1 ({queue}), ab-2 ({queue})"
        assert expected in unwrapped(done.stderr)
        assert shell.queue(queue)["dead"] == 3
        shell("dlq", "delete", "", status=2)
        (letter,) = [one for one in shell.json("dlq", "list") if one["id"] == "cd-1"]
        assert letter["failure"]["reason"] == "undecodable"
        assert shell("dlq", "delete", "cd", "ab-2").stdout == "deleted: 2\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("replay",), "ids of dead letters, or a filter, or --all"),
        (("delete", "--queue", "webhooks"), "a filter other than --queue, or --all"),
        (("delete", "an-id", "--form", "f"), "a filter other than --queue, or --all"),
        (
            ("list", "--since", "yesterday"),
            "expected a time like 2026-01-31T09:30, or an age like 2h or 3d",
        ),
        (("list", "--reason", "bad luck"), "expected one of attempts_exhausted, "),
    ],
)
def test_contradictory_options_are_wrong_use(
    shell: Shell, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in unwrapped(shell("dlq", *arguments, status=2).stderr)
