"""Namespaces isolate two environments in one Redis; keys of older versions are migrated."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from formrelay.actors.webhooks.old_registry import OLD_DELIVERED, OLD_DISABLED, OLD_RECORDS
from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules, EndpointRecord
from formrelay.actors.webhooks.resources import make_registry
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.inspection import State
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.config import BrokerSettings, Settings
from formrelay.core.errors import SinkPermanent
from formrelay.state import StateRedis, find_state, make_idempotency_store
from formrelay.state.idempotency import Finished, Running
from formrelay.state.redis.connection import connect_redis, redis_address
from formrelay.state.redis.idempotency import OLD_PREFIX, RedisIdempotencyStore
from tests.support.command import run
from tests.support.harness import Harness
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.redis

LONG = timedelta(hours=1)
OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))
FAILED = DeliveryReport("a", "example.com", False, 1, 1.0, 2.0, 500)


def section(url: str, namespace: str, state_url: str | None = None) -> BrokerSettings:
    environ = {"REDIS_URL": url, "BROKER_NAMESPACE": namespace}
    if state_url is not None:
        environ["STATE_URL"] = state_url
    return Settings.load(environ=environ, env_file=None).broker


class Environment:
    """A broker and its state store in a namespace."""

    def __init__(self, url: str, namespace: str, queue: str) -> None:
        self.broker = RedisBroker(url, options=OPTIONS, namespace=namespace)
        self.harness = Harness(self.broker, queue)
        self.ran: list[object] = []
        self.harness.actor(self.work, actor_name="note", job_type="a.b")
        self.store = make_idempotency_store(self.broker.state)
        self.endpoints = make_registry(self.broker.state)

    def work(self, payload: object, metadata: object = None) -> None:
        if payload == "wrong":
            raise SinkPermanent("no")
        self.ran.append(payload)


@pytest.fixture
def production(redis_url: str, unique: str) -> Iterator[Environment]:
    found = Environment(redis_url, "dramatiq", unique)
    yield found
    found.harness.close()


@pytest.fixture
def staging(redis_url: str, unique: str) -> Iterator[Environment]:
    # This namespace is also the prefix of keys of older versions.
    found = Environment(redis_url, "formrelay", unique)
    yield found
    found.harness.close()


def job(payload: str) -> bytes:
    return json.dumps({"type": "a.b", "payload": payload}).encode()


def test_two_environments_in_one_redis_are_isolated(
    production: Environment, staging: Environment
) -> None:
    queue, keys = staging.harness.queue, staging.broker.keys
    actor = staging.broker.actors["note"]
    staging.harness.start()
    actor.send("wrong")
    wait_until(staging.harness.dead)
    staging.broker.inspector.pause(queue)
    actor.send("waits")
    actor.send_with_options(args=("later",), delay=60_000)
    staging.broker.client.rpush(keys.inbox(queue), job("plain"))
    staging.store.begin("key", "one", LONG)
    staging.store.finish("key", "one", b"1", LONG)
    staging.endpoints.disable("a", why="by hand", now=1.0)
    staging.endpoints.keep({"msg_1": b"{}"}, LONG)

    seen = production.broker.counts(queue)
    assert (seen.waiting, seen.scheduled, seen.in_flight, seen.dead) == (0, 0, 0, 0)
    assert seen.paused is False
    assert production.broker.inspector.workers() == []
    assert production.store.begin("key", "two", LONG) is None
    assert production.endpoints.disabled() == frozenset()
    assert production.endpoints.all() == []
    assert production.endpoints.kept("msg_1") is None
    assert len(staging.broker.inspector.workers()) == 1

    production.harness.start()
    production.broker.actors["note"].send("here")
    production.broker.client.rpush(production.broker.keys.inbox(queue), job("plain here"))
    wait_until(lambda: sorted(map(str, production.ran)) == ["here", "plain here"])
    assert staging.ran == []
    assert staging.store.begin("key", "one", LONG) == Finished(b"1")
    client = production.broker.client
    assert {key.partition(b":")[0] for key in client.keys("*")} == {b"dramatiq", b"formrelay"}


def test_a_separate_state_store_uses_the_namespace_too(redis_url: str) -> None:
    state_url = redis_url.removesuffix("0") + "1"
    client = connect_redis(state_url, timeout=timedelta(seconds=1))
    client.flushdb()
    for namespace in ("one", "two"):
        given = section(redis_url, namespace, state_url)
        state = find_state(given, None, is_ending=lambda: False)
        assert make_idempotency_store(state).begin("key", namespace, LONG) is None
        assert make_registry(state).disable("a", why="by hand", now=1.0)
    assert {key.partition(b":")[0] for key in client.keys("*")} == {b"one", b"two"}
    client.flushdb()


# -- keys of older versions -----------------------------------------------------------------


def test_only_the_default_namespace_reads_the_old_inbox(
    production: Environment, staging: Environment
) -> None:
    queue = production.harness.queue
    old = production.broker.keys.old_inbox(queue)
    staging.harness.start()
    for number in range(3):
        production.broker.client.rpush(old, job(str(number)))
    assert staging.broker.counts(queue).waiting == 0
    assert production.broker.counts(queue).waiting == 3
    page = production.broker.inspector.browse(queue, State.WAITING, limit=2)
    rest = production.broker.inspector.browse(queue, State.WAITING, cursor=page.cursor)
    entries = [*page.entries, *rest.entries]
    assert [one.message.kwargs["payload"] for one in entries] == ["0", "1", "2"]
    production.harness.start()
    wait_until(lambda: sorted(map(str, production.ran)) == ["0", "1", "2"])
    assert staging.ran == []


def test_a_user_without_rights_to_the_old_keys_can_work(
    redis_server: RedisServer, unique: str
) -> None:
    admin = connect_redis(redis_server.url, timeout=timedelta(seconds=1))
    admin.acl_setuser(
        "job", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["dramatiq:*"]
    )
    url = redis_server.url.replace("//", "//job:secret@")
    found = Environment(url, "dramatiq", unique)
    with pytest.raises(NoPermissionError):
        found.broker.client.exists(OLD_RECORDS)
    try:
        found.broker.client.rpush(found.broker.keys.inbox(unique), job("plain"))
        found.broker.actors["note"].send("sent")
        assert found.broker.counts(unique).waiting == 2
        assert len(found.broker.inspector.browse(unique, State.WAITING).entries) == 2
        found.harness.start()
        wait_until(lambda: sorted(map(str, found.ran)) == ["plain", "sent"])
        assert found.store.begin("key", "one", LONG) is None
        assert found.endpoints.disable("a", why="by hand", now=1.0)
        assert found.endpoints.disabled() == {"a"}
        assert found.endpoints.kept("msg_1") is None
        found.broker.inspector.purge(unique)
    finally:
        found.harness.close()


def test_a_user_who_may_only_read_the_old_inbox_causes_no_busy_loop(
    redis_server: RedisServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = connect_redis(redis_server.url, timeout=timedelta(seconds=1))
    admin.execute_command(
        *("ACL", "SETUSER", "job", "on", ">secret", "+@all", "~dramatiq:*", "%R~*")
    )
    found = Environment(redis_server.url.replace("//", "//job:secret@"), "dramatiq", unique)
    admin.rpush(found.broker.keys.old_inbox(unique), job("out of reach"))
    before = found.broker.commands.run
    calls: list[str] = []

    def run(script: str, *arguments: Any) -> Any:
        calls.append(script)
        return before(script, *arguments)

    monkeypatch.setattr(found.broker.commands, "run", run)
    found.harness.start()
    started = time.monotonic()
    wait_until(lambda: time.monotonic() > started + 0.6)
    found.harness.close()
    # A busy loop makes some thousand calls a second. On a slow machine the wait takes longer.
    assert 1 <= calls.count("exchange") < 40 * (time.monotonic() - started)
    assert found.ran == []


def old_state(redis_url: str) -> None:
    """State as an older version stored it."""
    client = connect_redis(redis_url, timeout=timedelta(seconds=1))
    client.set(f"{OLD_PREFIX}done", b"r1", px=60_000)
    client.set(f"{OLD_PREFIX}runs", b"lolder", px=60_000)
    gone = EndpointRecord("gone", "example.com", disabled_at=5.0, why="status 410")
    failing = EndpointRecord("failing", "example.com", failures=7, failing_since=1.0)
    for record in (gone, failing):
        client.hset(OLD_RECORDS, record.id, json.dumps(record.to_json()))
    client.sadd(OLD_DISABLED, "gone")
    client.set(f"{OLD_DELIVERED}msg_1", b"{}", px=60_000)


def test_the_default_namespace_uses_the_state_of_an_older_version(redis_url: str) -> None:
    old_state(redis_url)
    client, where = connect_redis(redis_url, timeout=timedelta(seconds=1)), redis_address(redis_url)
    store = RedisIdempotencyStore(StateRedis(client, where))
    assert store.begin("done", "me", LONG) == Finished(b"1")
    held = store.begin("runs", "me", LONG)
    assert isinstance(held, Running)
    assert timedelta(0) < held.ends_in <= timedelta(minutes=1)
    endpoints = RedisRegistry(client, where)
    assert endpoints.disabled() == {"gone"}
    assert {one.id: one.failures for one in endpoints.all()} == {"gone": 0, "failing": 7}
    assert endpoints.kept("msg_1") == b"{}"
    assert not client.exists(OLD_RECORDS)
    assert 0 < client.ttl(OLD_DISABLED) <= 3_600  # workers of the older version still read it
    # After an operator enables it, it stays enabled for processes that start later.
    assert endpoints.enable("gone")
    assert RedisRegistry(client, where).disabled() == frozenset()


def test_an_endpoint_disabled_by_a_worker_of_an_older_version_is_disabled(
    redis_url: str,
) -> None:
    client, where = connect_redis(redis_url, timeout=timedelta(seconds=1)), redis_address(redis_url)
    RedisRegistry(client, where).report([FAILED], DisableRules())
    record = EndpointRecord("a", "example.com", failures=9, disabled_at=5.0, why="9 failed")
    client.hset(OLD_RECORDS, "a", json.dumps(record.to_json()))
    (found,) = RedisRegistry(client, where).all()
    assert (found.failures, found.why) == (1, "9 failed")


def test_a_command_moves_old_keys_into_another_namespace(redis_url: str, tmp_path: Path) -> None:
    old_state(redis_url)
    client, where = connect_redis(redis_url, timeout=timedelta(seconds=1)), redis_address(redis_url)
    client.rpush("formrelay:inbox:webhooks", b"1", b"2")
    env = {"REDIS_URL": redis_url, "BROKER_NAMESPACE": "mine", "API_URL": "http://127.0.0.1:1"}
    says = json.loads(run("doctor", "--json", cwd=tmp_path, env=env).stdout)
    (finding,) = [one["says"] for one in says if one["what"] == "old keys"]
    assert f"formrelay:inbox:webhooks, {OLD_RECORDS}, {OLD_DISABLED}; if they belong" in finding
    assert RedisRegistry(client, where, "mine").disabled() == frozenset()
    expected = {
        "plain jobs": 2,
        "endpoints": 2,
        "idempotency keys": 2,
        "delivered webhooks": 1,
    }
    for options in (("--dry-run",), ()):
        done = run("migrate", "--old-keys", "--json", *options, cwd=tmp_path, env=env)
        assert json.loads(done.stdout)["moved"] == expected, done.stderr
    assert client.keys("formrelay:*") == []
    assert client.lrange("mine:webhooks.inbox", 0, -1) == [b"1", b"2"]
    assert RedisRegistry(client, where, "mine").disabled() == {"gone"}
    assert RedisRegistry(client, where, "mine").kept("msg_1") == b"{}"
    assert RedisIdempotencyStore(StateRedis(client, where, "mine")).begin(
        "done", "me", LONG
    ) == Finished(b"1")
    assert 0 < client.pttl("mine:__once__.done") <= 60_000
    says = json.loads(run("doctor", "--json", cwd=tmp_path, env=env).stdout)
    assert not [one for one in says if one["what"] == "old keys"]
    # Queues of own actors are known by their modules.
    (tmp_path / "own.py").write_text(
        'import dramatiq\n@dramatiq.actor(queue_name="notes")\ndef note(): ...\n'
    )
    client.rpush("formrelay:inbox:notes", b"1")
    moving = ("migrate", "--old-keys", "--json", "--dry-run")
    counts = [
        json.loads(run(*moving, *options, cwd=tmp_path, env={**env, **more}).stdout)["moved"]
        for options, more in (
            ((), {}),
            (("--import", "own"), {}),
            ((), {"FORMRELAY_IMPORTS": "own"}),
        )
    ]
    assert [found.get("plain jobs", 0) for found in counts] == [0, 1, 1]
    done = run("migrate", "--old-keys", cwd=tmp_path, env={**env, "BROKER_NAMESPACE": "dramatiq"})
    assert done.returncode == 2
