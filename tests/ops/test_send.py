"""``formrelay send``: one job or many, to a queue, a job type or an actor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import dramatiq
import pytest

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.sending import Line, Sender, find_target, read_lines, split
from tests.ops.shell import Shell

EVENT = {"type": "form.viewed", "formId": "f1"}
WEBHOOK = {"url": "https://example.com/hook", "body": {"a": 1}, "secret": "whsec_c2VjcmV0"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, CLICKHOUSE_URL="clickhouse://127.0.0.1:1")


def lines_of(*jobs: Any) -> str:
    return "".join(json.dumps(job) + "\n" for job in jobs)


def test_a_job_is_sent_to_a_queue_a_job_type_or_an_actor(shell: Shell) -> None:
    for target in ("events", "event.record", "record_events"):
        assert len(shell("send", target, json.dumps(EVENT)).stdout.strip()) == 36
    pretty = json.dumps({"type": "event.record", "payload": EVENT}, indent=2)
    (shell.folder / "job.json").write_text(pretty)
    for source in ("@job.json", "job.json", "--file=job.json"):
        found = shell.json("send", "events", source)
        assert len(found.pop("id")) == 36
        assert found == {"sent": 1, "invalid": 0, "dry_run": False}
    shell("send", "events", stdin=pretty)
    assert shell.queue("events")["waiting"] == 7
    assert shell("send", "events", "@job.json", "--dry-run").stdout == "would be sent: 1\n"
    assert shell.queue("events")["waiting"] == 7


def test_invalid_lines_are_named_and_the_others_are_sent(shell: Shell) -> None:
    shell.env["MAX_MESSAGE_BYTES"] = "10000"
    large = {**WEBHOOK, "body": "x" * 20_000}
    jobs = [
        {"payload": WEBHOOK, "metadata": {"formId": "f1"}},
        {"type": "webhook.send", "payload": WEBHOOK},
        {"payload": {"url": "https://example.com/ANSWER"}},
        large,
        {"type": "email.send", "payload": {}},
        {"payload": WEBHOOK, "metadata": 5},
        WEBHOOK,
    ]
    text = lines_of(*jobs[:3]) + '\n{"ANSWER": \n' + lines_of(*jobs[3:]) + "x" * 200_000 + "\n"
    done = shell("send", "webhooks", "--metadata", '{"formId": "f2"}', stdin=text, status=1)
    assert done.stdout == "sent: 3, invalid: 6\n"
    errors = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in errors] == [
        *("line 3", "line 5", "line 7", "line 8", "line 10", "line 6")
    ]
    assert "payload.body: field required" in errors[0]
    assert errors[1].startswith("line 5: expected the job as JSON, got invalid JSON")
    assert "expected a type of the queue webhooks (webhook.send), got another type" in errors[2]
    assert "expected metadata to be an object" in errors[3]
    assert "got a longer line" in errors[4]
    assert "expected a message of at most 10000 bytes" in errors[5]
    assert "ANSWER" not in done.stderr
    (shell.folder / "jobs.ndjson").write_text(text)
    checked = shell.json("send", "webhooks", "jobs.ndjson", "--dry-run", status=1)
    assert (checked["sent"], checked["invalid"], checked["dry_run"]) == (3, 6, True)
    assert [one["line"] for one in checked["errors"]] == [3, 5, 6, 7, 8, 10]
    listed = shell.json("jobs", "list", "-q", "webhooks", "-s", "waiting")["entries"]
    found = [
        json.loads(shell("jobs", "show", one["id"], "--reveal").stdout)["message"] for one in listed
    ]
    assert [one["kwargs"]["metadata"]["formId"] for one in found] == ["f1", "f2", "f2"]


def test_many_jobs_are_sent_in_chunks_with_a_delay(shell: Shell) -> None:
    (shell.folder / "many.ndjson").write_text(lines_of(*[EVENT] * 1_200))
    done = shell("send", "events", "many.ndjson", "--delay", "3600")
    assert done.stdout == "sent: 1200\n"
    assert shell.queue("events")["scheduled"] == 1_200


def test_a_queue_of_several_job_types_needs_the_type(shell: Shell) -> None:
    error = shell("send", "submissions", "{}", status=2).stderr
    known = "(payment.update, submission.save)"
    assert f"expected a type of the queue submissions {known}, got none" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("webhook", "{}"), "got 'webhook': did you mean 'webhooks'? Otherwise name the module"),
        (("xyz", "{}"), "got 'xyz': name the module of an actor of your own with --import"),
        (("events", "@missing.json"), "expected a file that can be read, got 'missing.json'"),
        (("events", "{}", "--file", "x"), "expected either a payload or --file, got both"),
        (("events", "-"), "expected the payload as JSON"),
        (("events", json.dumps(EVENT), "--delay", "1e30"), "expected a delay of at most"),
    ],
)
def test_wrong_use_says_what_was_expected(
    shell: Shell, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in shell("send", *arguments, status=2).stderr


def test_a_broker_that_fails_ends_the_call_and_names_the_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path, BROKER="redis", REDIS_URL="redis://127.0.0.1:1")
    done = shell("send", "events", stdin=lines_of(EVENT, EVENT), status=1)
    assert (
        "sent: 0, invalid: 0; line 1 is the first whose job may not have been sent" in done.stderr
    )
    assert "expected Redis at 127.0.0.1:1 to answer" in done.stderr


# -- reading ---------------------------------------------------------------------------------


def test_one_job_on_several_lines_is_no_file_of_lines() -> None:
    assert split(BytesIO(b'{\n"a": 1\n}\n'), 100) == b'{\n"a": 1\n}\n'
    assert split(BytesIO(b'\xef\xbb\xbf{"a": 1}\r\n\r\n'), 100) == b'{"a": 1}\r\n'
    found = split(BytesIO(b'{\n{"b": 1}\n\n3'), 100)
    assert not isinstance(found, bytes)
    assert list(found) == [Line(1, b"{\n"), Line(2, b'{"b": 1}\n'), Line(4, b"3")]


def test_a_large_file_is_not_read_at_once() -> None:
    class Endless(BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            return b'{"a": 1}\n'

    found = split(Endless(), 1_000)
    assert not isinstance(found, bytes)
    assert [next(found).number for _ in range(3)] == [1, 2, 3]


@pytest.mark.redis
def test_a_file_of_any_length_is_sent_with_one_chunk_in_memory(redis_url: str) -> None:
    broker = RedisBroker(redis_url)

    @dramatiq.actor(queue_name="notes", broker=broker)
    def note(payload: Any) -> None: ...

    sender = Sender(broker, find_target(broker, note.actor_name), {}, None, dry_run=False)
    ahead = []

    def lines() -> Iterator[Line]:
        for number in range(1, 2_001):
            ahead.append(number - 1 - sender.sent - sender.invalid)
            yield Line(number, b'{"text": "milk"' + (b"\n" if number == 7 else b"}\n"))

    found = [bad for bad in sender.send(lines()) if bad is not None]
    assert found == [
        (7, "expected the job as JSON, got invalid JSON: unexpected end of data (column 16)")
    ]
    assert (sender.sent, sender.invalid) == (1_999, 1)
    assert broker.counts("notes").waiting == 1_999
    assert max(ahead) <= 500
    broker.close()


def test_a_line_beyond_the_limit_is_skipped() -> None:
    file = BytesIO(b"a" * 35 + b"\n" + b"b" * 10 + b"\nc")
    assert list(read_lines(file, 10)) == [Line(1, None), Line(2, b"b" * 10 + b"\n"), Line(3, b"c")]
