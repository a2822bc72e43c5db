"""Every command that lists data, with control characters and markup in every field."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import redis

from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.printable import shown_id
from formrelay.sinks.clickhouse import migrate
from tests.ops.form_events import Happened, insert
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.support.command import clean_environment, run_python

# Colours, a window title, C1, DEL, text directions, separators, markup, emoji codes.
EVIL = (
    "\x1b[95;5mPWN\x1b]0;title\x07\x9b2J\x7f\u202e\u2066\u200f\u2028\x85\r\n\t\u200b\U000e0041"
    "[red]x[/red][/nope] \\[b] :boom: [link=https://evil.example]y[/link]"
)
#: The same as an id that is not UTF-8.
EVIL_ID = EVIL.encode() + b"\xff\xc3\\"
#: Sequences that rich itself writes: colours and weights, show the cursor, clear a line.
RICH = re.compile(
    r"\x1b\[(?:0|1|2|3|2;3|1;3[16]|3[1-6]|38;5;[0-9]+)m|\x1b\[\?25[lh]|\x1b\[[12]?K|\x1b\[1A|\r"
)
FAILURE = {
    "reason": "permanent",
    "error": EVIL,
    "message": EVIL,
    "at": "2026-01-31T09:30:00Z",
    "attempt": 3,
    "worker": EVIL,
    "code": 400,
    "where": [EVIL],
}


def message(actor: str = EVIL, **options: Any) -> bytes:
    return orjson.dumps(
        {
            "queue_name": EVIL,
            "actor_name": actor,
            "args": [EVIL],
            "kwargs": {"payload": {EVIL: EVIL}, "metadata": {"formId": EVIL}},
            "options": {"failure": FAILURE, **options},
            "message_id": EVIL,
            "message_timestamp": 1_769_851_800_000,
        }
    )


MANY = Path(__file__).with_name("many_commands.py")


@dataclass(frozen=True)
class Commands:
    folder: Path
    env: dict[str, str]

    def many(self, how: str, commands: list[tuple[str, ...]]) -> list[list[bytes]]:
        """Output of each command, written to pipes or to a terminal."""
        done = run_python(
            *(str(MANY), how),
            cwd=self.folder,
            env=clean_environment(**self.env, TERM="xterm-256color", COLUMNS="500"),
            stdin=json.dumps(commands),
            timeout=120,
        )
        done.check_returncode()
        return [[bytes.fromhex(text) for text in written] for written in json.loads(done.stdout)]


@pytest.fixture
def commands(
    tmp_path: Path, redis_url: str, clickhouse_url: str, clickhouse_database: str
) -> Iterator[Commands]:
    broker = RedisBroker(redis_url)
    fill_redis(broker, redis_url)
    fill_clickhouse(clickhouse_url, clickhouse_database)
    yield Commands(
        tmp_path,
        {
            "REDIS_URL": redis_url,
            "CLICKHOUSE_URL": clickhouse_url,
            "CLICKHOUSE_DATABASE": clickhouse_database,
            "API_URL": "http://127.0.0.1:1",
        },
    )
    broker.close()


def fill_redis(broker: RedisBroker, url: str) -> None:
    keys, queue = broker.keys, "webhooks"
    with redis.Redis.from_url(url) as client:
        seconds = client.time()[0]
        client.hset(keys.dead_bodies(queue), EVIL_ID, message())
        client.hset(keys.dead_bodies(queue), b"raw" + EVIL_ID, EVIL_ID)
        client.zadd(keys.dead(queue), {EVIL_ID: seconds * 1000, b"raw" + EVIL_ID: seconds * 1000})
        # Fields of unexpected types and sizes.
        odd = message(failure={**FAILURE, "error": 1, "where": "x"}).replace(
            b"1769851800000", b"9" * 18
        )
        client.hset(keys.dead_bodies(queue), b"odd", odd)
        client.zadd(keys.dead(queue), {b"odd": seconds * 1000 + 1})
        client.hset(keys.bodies(queue), EVIL_ID, message())
        client.rpush(keys.waiting(queue), EVIL_ID)
        client.hset(keys.scheduled_bodies(queue), EVIL_ID, message())
        client.zadd(keys.scheduled(queue), {EVIL_ID: (seconds + 3600) * 1000})
        worker = "w1"
        client.zadd(keys.heartbeats(), {worker: seconds * 1000})
        client.set(keys.worker_name(worker), EVIL_ID)
        client.sadd(keys.worker_queues(worker), EVIL_ID)
        client.hset(keys.bodies(queue), b"held" + EVIL_ID, message())
        client.sadd(keys.in_flight(worker, queue), b"held" + EVIL_ID)
        gone = DeliveryReport(EVIL, EVIL, False, 1, 1.0, 2.0, 410, is_gone=True)
        RedisRegistry(client, "the test's Redis").report([gone], DisableRules())


def fill_clickhouse(url: str, database: str) -> None:
    from datetime import timedelta

    patience = timedelta(seconds=20)
    client = open_clickhouse(url, database, timeout=patience, connect_timeout=patience)
    migrate.apply(client)
    now = datetime.now(UTC).replace(microsecond=0)
    row = {
        "webhook_id": "w1",
        "at": now,
        "attempt_id": uuid4(),
        "message_id": EVIL,
        "endpoint": EVIL,
        "host": EVIL,
        "form_id": EVIL,
        "submission_id": EVIL,
        "attempt": 1,
        "outcome": "failed",
        "status": 500,
        "duration_ms": 1.5,
        "error": EVIL,
        "message": EVIL,
        "response": EVIL,
    }
    client.insert("webhook_deliveries", tuple(row), [[value] for value in row.values()])
    types = ("form_viewed", "field_answered", EVIL)
    events = [
        Happened(type, now, session, form=EVIL, properties={"field": EVIL})
        for type in types
        for session in ("s1", "s2")
    ]
    insert(client, events)
    client.close()


#: Commands, each with a text that its table, and its JSON if it has any, must contain.
LISTINGS: list[tuple[str, ...]] = [
    ("queues",),
    ("workers",),
    ("doctor",),
    ("health",),
    ("jobs", "list", "-q", "webhooks", "-s", "waiting"),
    ("jobs", "list", "-q", "webhooks", "-s", "scheduled"),
    ("jobs", "list", "-q", "webhooks", "-s", "in-flight"),
    ("jobs", "list", "-q", "webhooks", "-s", "dead"),
    ("jobs", "list", "-q", "webhooks", "-s", "dead", "--limit", "1"),
    ("dlq", "list"),
    ("dlq", "list", "--error", "ValueError"),
    ("dlq", "list", "--since", "10d", "--form", EVIL),
    ("webhooks", "endpoints"),
    ("webhooks", "attempts", "w1"),
    ("events", "stats", EVIL),
    ("events", "stats", EVIL, "--steps", f"form_viewed,{EVIL.replace(',', '')}"),
]
#: Commands that always print JSON, that fail, or that change something.
OTHERS: list[tuple[str, ...]] = [
    ("dlq", "show", shown_id(EVIL_ID.decode(errors="surrogateescape"))),
    ("jobs", "show", shown_id("held" + EVIL_ID.decode(errors="surrogateescape"))),
    ("dlq", "show", EVIL + "none"),
    ("dlq", "delete", "\x1b", "--yes"),
    ("dlq", "list", "--since", EVIL),
    ("dlq", "list", "--queue", EVIL),
    ("dlq", "list", "--reason", EVIL),
    ("dlq", EVIL),
    ("dlq", "list", f"--{EVIL}"),
    ("jobs", "list", "-q", "webhooks", "--cursor", EVIL),
    ("jobs", "show", EVIL + "none"),
    ("send", EVIL, "{}"),
    ("send", "record_events", EVIL),
    ("send", "record_events", "@" + EVIL),
    ("schema", EVIL),
    ("webhooks", "endpoints", "disable", EVIL + "2"),
    ("webhooks", "endpoints", "disable", EVIL + "2", "--yes"),
    ("webhooks", "endpoints", "enable", EVIL),
    ("webhooks", "endpoints", "enable", EVIL),
    ("webhooks", "attempts", EVIL + "none"),
    ("webhooks", "resend", EVIL + "none"),
    ("events", "stats", "none" + EVIL),
    ("dlq", "delete", shown_id(EVIL_ID.decode(errors="surrogateescape")), "--dry-run"),
]


def hidden_in(said: bytes) -> set[str]:
    """Control and invisible characters in an output."""
    text = said.decode(errors="surrogateescape")
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {one for one in text if unicodedata.category(one) in kinds and one != "\n"}


@pytest.mark.slow
def test_no_command_prints_control_characters_of_data(commands: Commands) -> None:
    every = [*LISTINGS, *((*each, "--json") for each in LISTINGS), *OTHERS]
    for arguments, (out, err) in zip(every, commands.many("piped", every), strict=True):
        assert b"Traceback" not in err, (arguments, err)
        assert hidden_in(out + err) == set(), (arguments, out, err)
        assert out or err, arguments
        if "--json" in arguments or out[:1] == b"{":
            json.loads(out)


@pytest.mark.slow
def test_on_a_terminal_control_characters_are_escaped_and_markup_is_literal(
    commands: Commands,
) -> None:
    every = [*LISTINGS, *OTHERS]
    marked = 0
    for arguments, (said,) in zip(every, commands.many("terminal", every), strict=True):
        assert b"\x1b[95;5m" not in said, (arguments, said)
        text = RICH.sub("", said.decode(errors="surrogateescape"))
        assert hidden_in(text.encode(errors="surrogateescape")) == set(), (arguments, said)
        assert "Traceback" not in text, (arguments, said)
        if "[/red]" in (line := text.replace("\n", "")):
            marked += 1
            assert "[red]x[/red][/nope]" in line, (arguments, text)
            assert ":boom: [link" in line, (arguments, text)
    assert marked > 10


def test_a_printed_id_can_be_used_as_an_argument(commands: Commands) -> None:
    (out, _), *_ = commands.many("piped", [("dlq", "list", "--json")])
    ids = [one["id"] for one in json.loads(out)]
    first, second, third = ids
    raw = (EVIL_ID, b"raw" + EVIL_ID, b"odd")
    assert set(ids) == {shown_id(id.decode(errors="surrogateescape")) for id in raw}
    steps: list[tuple[str, ...]] = [
        ("dlq", "show", first),
        ("jobs", "show", second),
        ("dlq", "replay", first),
        ("dlq", "delete", second, third),
        ("dlq", "list", "--json"),
    ]
    found, job, replayed, deleted, left = [out for out, _ in commands.many("piped", steps)]
    assert (json.loads(found)["id"], json.loads(job)["id"]) == (first, second)
    assert (replayed, deleted) == (b"replayed: 1\n", b"deleted: 2\n")
    assert json.loads(left) == []
