"""Commands on queues of a user's own actors, with and without ``--import``."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.ops.shell import Shell
from tests.support.command import Program, clean_environment
from tests.support.missing import skip_or_fail
from tests.support.waiting import wait_until

MODULE = """
import dramatiq

@dramatiq.actor(queue_name="notes", max_retries=0)
def write_note(text, metadata=None):
    raise RuntimeError("no paper")
"""
STRANGER = """
import dramatiq
from dramatiq.brokers.stub import StubBroker
dramatiq.set_broker(StubBroker())
"""


@pytest.fixture(params=[pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "embedded"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "actors.py").write_text(MODULE)
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_url")
        shell.env = {"RABBITMQ_URL": url, "API_URL": "http://127.0.0.1:1"}
    return shell


@pytest.fixture
def dead(shell: Shell) -> str:
    """Id of a dead letter on the queue ``notes``."""
    sent = shell("send", "write_note", '"milk"', "--import", "mine.actors").stdout.strip()
    with shell.worker("notes", imports="mine.actors"):
        wait_until(lambda: shell.json("dlq", "list", "--queue", "notes"), every=0.3)
    return sent


@pytest.mark.slow
def test_a_dead_letter_of_an_own_queue_is_listed_and_replayed(shell: Shell, dead: str) -> None:
    """On RabbitMQ without its management API, the queue must be named or imported."""
    is_rabbit = "RABBITMQ_URL" in shell.env
    plain = shell("dlq", "list", "--json")
    if is_rabbit:
        assert "not imported are not shown" in plain.stderr
        assert "RABBITMQ_API_URL" in plain.stderr
    else:
        assert dead in plain.stdout
        assert plain.stderr == ""
    for options in (["--import", "mine.actors"], ["--queue", "notes"]):
        (letter,) = shell.json("dlq", "list", *options)
        assert (letter["id"], letter["actor"], letter["queue"]) == (dead, "write_note", "notes")
    found = shell.json("jobs", "list", "--state", "dead", "-q", "notes", "--id-prefix", dead[:8])
    assert [entry["id"] for entry in found["entries"]] == [dead]
    assert (found["looked_at"], found["is_complete"]) == (1, True)
    why_not = shell("jobs", "run-now", dead[:8], status=1).stderr if not is_rabbit else ""
    assert f"it is dead: formrelay dlq replay {dead}" in why_not or is_rabbit
    if is_rabbit:
        for id in (dead, "nope"):
            refused = shell("jobs", "run-now", id, "-q", "notes", status=1).stderr
            assert "running a scheduled job at once: not available on this broker" in refused
        assert (
            "dead letters can be listed: --state dead"
            in shell("jobs", "list", "-q", "notes", status=1).stderr
        )
    assert shell("dlq", "replay", "--queue", "notes").stdout == "replayed: 1\n"
    counts = shell.json("queues", "--import", "mine.actors")
    (notes,) = [queue for queue in counts if queue["queue"] == "notes"]
    assert (notes["waiting"], notes["dead"]) == (1, 0)
    assert shell("queues", "purge", "notes").stdout == "deleted: 1\n"
    shell("send", "write_note", '"tea"', "--delay", "3600", "--import", "mine.actors")
    listed = shell("queues", "--import", "mine.actors").stderr
    assert ("scheduled messages of all queues together: 1" in listed) == is_rabbit


@pytest.mark.rabbitmq
def test_rabbitmq_says_what_it_does_not_count_and_what_a_purge_keeps(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    shell = Shell(tmp_path)
    shell.env = {"RABBITMQ_URL": rabbitmq_url, "API_URL": "http://127.0.0.1:1"}
    found = shell("queues")
    assert "RABBITMQ_API_URL adds the number of messages in flight" in found.stderr
    assert "rates are not known: they need a shared store (STATE_URL)" in found.stderr
    assert "jobs/s" not in found.stdout
    shell("send", "record_events", '{"type": "form.viewed", "formId": "f1"}')
    assert shell.queue("events")["no_worker"] is True
    assert shell.queue("events")["error_rate"] is None
    done = shell("queues", "purge", "events")
    assert done.stdout == "deleted: 1\n"
    assert "scheduled messages are kept: all queues of RabbitMQ share them" in done.stderr
    assert "On RabbitMQ they are kept" in shell("queues", "purge", "--help").stdout


@pytest.mark.slow
@pytest.mark.rabbitmq
def test_the_management_api_lists_the_queues_of_other_actors(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    api = os.environ.get("FORMRELAY_TEST_RABBITMQ_API_URL")
    if api is None:
        skip_or_fail("needs FORMRELAY_TEST_RABBITMQ_API_URL")
    shell = Shell(tmp_path)
    shell.env = {"RABBITMQ_URL": rabbitmq_url, "API_URL": "http://127.0.0.1:1"}
    (tmp_path / "mine.py").write_text(MODULE)
    sent = shell("send", "write_note", '"milk"', "--import", "mine").stdout.strip()
    with shell.worker("notes", imports="mine"):
        wait_until(lambda: shell.json("dlq", "list", "--queue", "notes"), every=0.3)
    shell.env["RABBITMQ_API_URL"] = api
    found = wait_until(lambda: shell("dlq", "list", "--json"), every=0.3)
    assert sent in found.stdout
    assert found.stderr == ""
    # The command works without the API, and says what it cannot show.
    shell.env["RABBITMQ_API_URL"] = "http://127.0.0.1:1"
    found = shell("dlq", "list")
    assert found.stdout == "no dead letters\n"
    assert "not imported are not shown" in found.stderr


@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("nowhere", "a module that can be imported"),
        ("mine/actors.py", "the name of a module, like myapp.actors"),
        ("broken", "got 'broken': No module named 'not_installed'"),
        ("stranger", "got StubBroker as Dramatiq's broker"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused_in_one_line(
    shell: Shell, module: str, expected: str
) -> None:
    (shell.folder / "broken.py").write_text("import not_installed")
    (shell.folder / "stranger.py").write_text(STRANGER)
    for command in ("queues", "worker"):
        done = shell(command, "--import", module, status=2)
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
def test_a_module_that_fails_is_refused_in_one_line_with_the_place(shell: Shell) -> None:
    (shell.folder / "fails.py").write_text("import os\nos.environ['NOT\\nSET']\n")
    (shell.folder / "wrong.py").write_text("def :\n")
    for module, expected in (("fails", r"KeyError: 'NOT\nSET' ("), ("wrong", "invalid syntax")):
        for words in (["jobs", "list", "-q", "notes", "--import", module], ["queues"]):
            shell.env["FORMRELAY_IMPORTS"] = module if len(words) == 1 else ""
            (line,) = shell(*words, status=2).stderr.splitlines()
            assert f"got '{module}'" in line
            assert expected in line
            assert ("FORMRELAY_IMPORTS" if len(words) == 1 else "--import") in line
            assert f"{module}.py" in line


def test_modules_of_the_variable_are_imported_by_every_command(shell: Shell) -> None:
    shell.env["FORMRELAY_IMPORTS"] = "mine.actors"
    shell("send", "write_note", '"milk"')
    assert shell.queue("notes")["waiting"] == 1
    shell.env["FORMRELAY_IMPORTS"] = ""
    # The queue has a message, so its commands need no import.
    assert shell("queues", "pause", "notes").stdout == "paused: notes\n"
    assert shell("queues", "resume", "notes").stdout == "resumed: notes\n"
    assert shell("dlq", "list", "--queue", "notes").stdout == "no dead letters\n"
    assert shell("queues", "purge", "notes").stdout == "deleted: 1\n"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
def test_workers_import_the_modules_of_the_variable(shell: Shell) -> None:
    shell.env["FORMRELAY_IMPORTS"] = "mine.actors"
    sent = shell("send", "write_note", '"milk"').stdout.strip()
    with shell.worker("notes"):
        (letter,) = wait_until(lambda: shell.json("dlq", "list", "-q", "notes"), every=0.3)
    assert letter["id"] == sent


@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
def test_an_unknown_queue_is_wrong_use_and_names_the_option(shell: Shell) -> None:
    for command in (["dlq", "list", "-q", "nots"], ["worker", "-q", "nots"]):
        done = shell(*command, status=2)
        assert "got 'nots'" in done.stderr
        assert "--import" in done.stderr


# -- ids ------------------------------------------------------------------------------------


@pytest.fixture
def waiting(shell: Shell) -> Iterator[redis.Redis]:
    """A Redis with a waiting and a scheduled message, both of ids that begin with ``ab-``."""
    with shell.redis_client() as client:
        body = b'{"queue_name":"notes","actor_name":"a","args":[],"kwargs":{},"options":{},'
        body += b'"message_id":"%b","message_timestamp":1700000000000}'
        client.rpush("dramatiq:notes", "ab-1")
        client.hset("dramatiq:notes.msgs", "ab-1", body % b"ab-1")
        client.zadd("dramatiq:notes.scheduled", {"ab-22": 4_000_000_000_000})
        client.hset("dramatiq:notes.DQ.msgs", "ab-22", body % b"ab-22")
        yield client


@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
@pytest.mark.usefixtures("waiting")
def test_a_job_in_any_state_is_found_by_a_unique_prefix(shell: Shell) -> None:
    assert '"state": "scheduled"' in shell("jobs", "show", "ab-2").stdout
    assert '"state": "waiting"' in shell("jobs", "show", "ab-1", "-q", "notes").stdout
    several = shell("jobs", "show", "ab", status=2).stderr
    assert "matches several: ab-1 (notes), ab-22 (notes)" in several
    assert "an empty text" in shell("jobs", "show", "", status=2).stderr


@pytest.mark.parametrize("shell", ["embedded"], indirect=True)
@pytest.mark.usefixtures("waiting")
def test_a_terminal_shows_whole_ids(shell: Shell) -> None:
    id = "0" * 36
    (shell.folder / "run").mkdir()
    with shell.redis_client() as client:
        client.hset("dramatiq:events.XQ.msgs", id, b"no message")
        client.zadd("dramatiq:events.XQ", {id: 1_700_000_000_000})
    main, other = pty.openpty()
    env = clean_environment(**shell.env, COLUMNS="100", TERM="xterm")
    command = Program(("-m", "formrelay", "dlq", "list"), shell.folder, env, [other, other, 2])
    os.close(other)
    assert command.wait(60) == 0
    assert id.encode() in os.read(main, 100_000)
    os.close(main)
