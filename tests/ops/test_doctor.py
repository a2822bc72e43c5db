"""``formrelay doctor``: weaknesses with advice; exit status 1 for errors, or with --strict."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import redis

from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.brokers.embedded import ensure_running, release
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import FormrelayError
from formrelay.core.server_info import ServerInfo
from formrelay.ops.cli import doctor
from formrelay.ops.doctor.finding import Finding
from formrelay.ops.doctor.servers import check_clock
from formrelay.ops.versions import too_old, unsupported_packages
from tests.ops.shell import Shell
from tests.support.command import clean_environment, run, run_python
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

WEBHOOKS = ("--queue", "webhooks")


def findings(tmp_path: Path, status: int, *options: str, **env: str) -> dict[tuple[str, str], str]:
    done = run("doctor", "--json", *options, cwd=tmp_path, env=env)
    assert done.returncode == status, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {(one["what"], one["state"]): one["says"] for one in found}


def test_the_embedded_default_is_fine(tmp_path: Path, api_url: str) -> None:
    found = findings(tmp_path, 0, BROKER="embedded", API_URL=api_url)
    says = "embedded answers; jobs can be sent, fetched and settled"
    assert found["broker", "ok"] == says
    assert ("broker", "weak") not in found
    assert found["clickhouse", "ok"].startswith("version ")
    assert "API_TOKEN is not set" in found["api", "weak"]
    assert ("monitoring", "weak") not in found


def test_monitoring_whose_alerts_only_the_log_gets_is_weak(tmp_path: Path) -> None:
    env = {"BROKER": "embedded", "WORKER_MONITORING_ENABLED": "true"}
    found = findings(tmp_path, 0, *WEBHOOKS, **env)
    assert "alerts go to the log alone" in found["monitoring", "weak"]


@pytest.mark.redis
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}, "set it to noeviction"),
        ({"appendonly": "no"}, "appendonly is off"),
    ],
)
def test_a_redis_that_may_lose_jobs_is_reported(
    tmp_path: Path, redis_server: RedisServer, settings: dict[str, str], said: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        for name, value in settings.items():
            client.config_set(name, value)
    found = findings(tmp_path, 0, *WEBHOOKS, REDIS_URL=redis_server.url)
    assert said in found["broker", "weak"]


@pytest.mark.redis
@pytest.mark.clickhouse
def test_a_clickhouse_without_tables_is_an_error(
    tmp_path: Path,
    redis_url: str,
    clickhouse_url: str,
    clickhouse_database: str,
    api_url: str,
) -> None:
    env = {
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": clickhouse_url,
        "CLICKHOUSE_DATABASE": clickhouse_database,
        "API_URL": api_url,
    }
    assert "formrelay migrate" in findings(tmp_path, 1, **env)["clickhouse", "bad"]
    assert run("migrate", cwd=tmp_path, env=env).returncode == 0
    assert ("clickhouse", "bad") not in findings(tmp_path, 0, **env)


def test_an_unavailable_broker_is_an_error_told_once(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path, env={"REDIS_URL": "redis://127.0.0.1:1"})
    assert done.returncode == 1
    assert done.stdout.count("expected Redis at 127.0.0.1:1 to answer") == 1
    assert "a worker does not start: expected API_URL for the queue of submissions" in done.stdout


def test_dead_letters_silent_workers_and_failing_endpoints_need_attention(
    tmp_path: Path, api_url: str
) -> None:
    shell = Shell(tmp_path, API_TOKEN="t", API_URL=api_url)
    shell("migrate")
    shell("send", "events", '{"type": "form.viewed", "formId": "f1"}')
    try:
        url = ensure_running(tmp_path / ".formrelay")
        broker = RedisBroker(url)
        keys, now = broker.keys, time.time() * 1000
        for id in ("one", "two"):
            broker.client.hset(keys.dead_bodies("emails"), id, b"no message")
            broker.client.zadd(keys.dead("emails"), {id: now - 90_000})
        broker.client.zadd(keys.heartbeats(), {"w1": now - 700_000})
        broker.client.set(keys.worker_name("w1"), "host:17")
        broker.client.sadd(keys.worker_queues("w1"), "events")
        failing = DeliveryReport("e1", "example.com", False, 7, 1.0, 2.0, 503)
        failing.open_until = time.time() + 300
        slow = DeliveryReport("e2", "example.com", False, 2, 1.0, 2.0, None)
        RedisRegistry(broker.client, "Redis").report([failing, slow], DisableRules())
        broker.close()
        found = shell.json("doctor")
        said = [f"{one['what']}: {one['says']}" for one in found if one["state"] == "weak"]
        for expected in (
            "dead letters: 2 dead letters in emails; the newest 1m ago, ",
            ": undecodable: ",
            "; run formrelay dlq list --queue emails, then dlq replay or dlq delete",
            "workers: host:17 is silent: last heartbeat 11m ago: it was killed, hangs, or is cut",
            "workers: none is alive; run formrelay worker",
            "queues: without a worker: events (1 job)",
            "endpoints: e1 (example.com) failed 7 times in a row for ",
            ", last with status 503; its circuit breaker is open until 20",
        ):
            assert expected in "\n".join(said)
        assert "e2" not in str(found)  # two failures are part of normal operation
        assert shell("doctor", "--strict", status=1).stdout == shell("doctor").stdout
    finally:
        release(tmp_path / ".formrelay")


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        ((), {}, "expected API_URL for the queue of submissions"),
        (("--queue", "nope"), {}, "expected a queue (emails, "),
        (("--queue", "emails"), {}, "SMTP_URL"),
        (("--queue", "sheets"), {}, "SHEETS_SERVICE_ACCOUNT_FILE"),
        (("--queue", "events"), {"WORKER_PROCESSES": "2"}, "can open chdb://"),
        (
            ("--queue", "emails"),
            {"SMTP_URL": "smtp+none://127.0.0.1:1", "EMAIL_DKIM_KEY_FILE": "/missing"},
            "EMAIL_DKIM_DOMAIN",
        ),
    ],
)
def test_doctor_fails_wherever_a_worker_refuses_to_start(
    tmp_path: Path, options: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    env = {"BROKER": "embedded", **env}
    refused = run("worker", *options, cwd=tmp_path, env=env)
    assert refused.returncode == 2
    assert says in refused.stderr
    done = run("doctor", *options, cwd=tmp_path, env=env)
    assert done.returncode in (1, 2)
    assert says in done.stdout + done.stderr


@pytest.mark.redis
def test_doctor_of_named_queues_checks_only_what_their_workers_need(
    tmp_path: Path, redis_url: str
) -> None:
    shell = Shell(tmp_path)
    shell.env = {"REDIS_URL": redis_url}
    shell("send", "events", '{"type": "form.viewed", "formId": "f1"}')
    found = {(one["what"], one["state"]): one["says"] for one in shell.json("doctor", status=1)}
    assert "without a worker: events (1 job)" in found["queues", "weak"]
    assert {"clickhouse", "api", "smtp", "sheets"} < {what for what, _ in found}
    assert found["worker", "bad"].endswith(
        "to check the queues of your workers: formrelay doctor --queue"
    )
    found = {one["what"]: one for one in shell.json("doctor", "--queue", "webhooks")}
    assert not {"queues", "clickhouse", "api", "smtp", "sheets", "worker"} & found.keys()
    assert found["dead letters"]["says"] == "there are none"
    found = {one["what"]: one for one in shell.json("doctor", "--queue", "events", status=1)}
    assert found.keys() >= {"queues", "clickhouse", "worker"}


@pytest.mark.rabbitmq
def test_doctor_says_which_queues_rabbitmq_cannot_list(
    tmp_path: Path, rabbitmq_url: str, api_url: str
) -> None:
    env = {"RABBITMQ_URL": rabbitmq_url, "API_URL": api_url}
    letters = findings(tmp_path, 1, **env)["dead letters", "weak"]
    assert letters.startswith("none in the known queues; other queues are not known: ")
    found = findings(tmp_path, 0, *WEBHOOKS, **env)
    assert found["dead letters", "ok"] == "there are none"


SKEWED = """
import sys, time
now = time.time
time.time = lambda: now() - 400
sys.argv = ["formrelay", "doctor", "--json"]
from formrelay.ops.cli import main
main()
"""


@pytest.mark.redis
def test_skewed_clocks_paused_queues_and_missing_systems_are_reported(
    tmp_path: Path, redis_url: str
) -> None:
    """Each finding says what to do."""
    shell = Shell(tmp_path, BROKER="redis", REDIS_URL=redis_url, API_URL="http://127.0.0.1:1/x")
    shell("send", "webhooks", '{"url": "https://example.com", "body": {}, "secret": "whsec_YQ=="}')
    shell("queues", "pause", "webhooks")
    env = clean_environment(**shell.env)
    done = run_python("-c", SKEWED, cwd=tmp_path, env=env)
    assert done.returncode == 1
    said = {f"{one['what']} {one['state']}: {one['says']}" for one in json.loads(done.stdout)}
    for expected in (
        r"clock bad: the clock of (Redis|Valkey) is 400 s ahead of the clock of this machine: "
        r"receivers may refuse the signatures of webhooks; synchronise both clocks",
        "queues weak: webhooks is paused, and 1 job waits; run formrelay queues resume webhooks",
        r"api bad: http://127\.0\.0\.1:1/x cannot be reached \(Connection refused\), .*; "
        "check API_URL, and that the API runs",
        "api weak: API_TOKEN is not set: .*; set it or API_TOKEN_FILE",
        "clickhouse weak: CLICKHOUSE_URL is not set: .*; set it to clickhouse://host:9000",
        "smtp weak: SMTP_URL is not set: .*; set it",
        "sheets weak: no Google account is configured: .*; set SHEETS_SERVICE_ACCOUNT_FILE",
        "worker bad: a worker does not start: expected CLICKHOUSE_URL .*: set it",
    ):
        assert [one for one in said if re.match(expected, one)], (expected, said)


@pytest.mark.rabbitmq
def test_on_rabbitmq_dead_letters_and_the_missing_store_are_reported(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    shell = Shell(tmp_path, BROKER="rabbitmq", RABBITMQ_URL=rabbitmq_url)
    shell("send", "webhooks", '{"url": "https://127.0.0.1", "body": {}, "secret": "whsec_YQ=="}')
    with shell.worker("webhooks"):
        wait_until(lambda: shell.json("dlq", "list"), every=0.3)
    shell.env["CLICKHOUSE_URL"] = "clickhouse://127.0.0.1:1"
    found = shell.json("doctor", status=1)
    said = "\n".join(f"{one['what']} {one['state']}: {one['says']}" for one in found)
    for expected in (
        "dead letters weak: 1 dead letter in webhooks; the newest ",
        "deliver_webhook: permanent: ",
        "; run formrelay dlq list --queue webhooks, then dlq replay or dlq delete",
        "workers weak: not known: RabbitMQ lists workers only with STATE_URL or RABBITMQ_API_URL",
        "the reports of workers are missing",
        "endpoints weak: processes do not share endpoints and idempotency keys: set STATE_URL",
        "clickhouse bad: ",
    ):
        assert expected in said


def test_servers_that_hang_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIMIT", 0.3)
    never = threading.Event()

    def hangs() -> Iterator[Finding]:
        never.wait()
        yield Finding("late", "ok", "answers")

    def fails() -> Iterator[Finding]:
        yield Finding("smtp", "ok", "answers")
        raise FormrelayError("no right")

    found = doctor._run_all({"api": hangs, "clickhouse": hangs, "smtp": fails})
    never.set()
    assert {name: [each.state for each in answers] for name, answers in found.items()} == {
        "api": ["bad"],
        "clickhouse": ["bad"],
        "smtp": ["ok", "bad"],
    }
    assert found["api"][0].says.startswith("no answer within 0.3 s: ")

    def breaks() -> Iterator[Finding]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # a mistake in a check is no finding
        doctor._run_all({"api": breaks})


# -- versions and clocks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "error", "state", "says"),
    [
        (0.4, 0.1, "ok", "agree within a second"),
        (-3.2, 2.5, "ok", "agree within a second"),  # the answer took five seconds
        (3.2, 0.1, "weak", "is 3 s ahead of the clock of this machine; synchronise"),
        (-400.0, 0.1, "bad", "is 400 s behind the clock of this machine: receivers may refuse"),
    ],
)
def test_clocks_that_differ_are_reported(ahead: float, error: float, state: str, says: str) -> None:
    found = check_clock("Redis", ahead, error)
    assert found.state == state
    assert says in found.says


@pytest.mark.parametrize(
    ("product", "version", "is_old"),
    [
        ("RabbitMQ", "3.9.27", True),
        ("RabbitMQ", "3.10.8", False),
        ("RabbitMQ", "4.0.5-rc.1", False),
        ("Redis", "6.0.16", True),
        ("Redis", "7.4", False),
        ("Valkey", "1", False),
        ("LavinMQ", "2.1", False),
        ("Redis", "unknown", False),
    ],
)
def test_servers_that_are_too_old_are_reported(product: str, version: str, is_old: bool) -> None:
    found = too_old(ServerInfo(product, version))
    assert (found is not None) is is_old
    if found:
        assert found.endswith(f"got {version}: upgrade the server")


def test_a_package_that_is_too_old_or_too_new_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(unsupported_packages()) == []
    versions = {"dramatiq": "3.0.1", "orjson": "3.8.0"}
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or known(name))
    assert sorted(unsupported_packages()) == [
        "expected dramatiq before 3, got 3.0.1: pip install 'dramatiq<3'",
        "expected orjson 3.9 or newer, got 3.8.0: pip install --upgrade orjson",
    ]
