"""Test servers answer, keep their data over a crash, and end with the run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pika
import pytest
import redis

from tests.support.missing import skip_or_fail
from tests.support.servers import (
    KINDS,
    ClickHouseServer,
    RedisServer,
    ServerError,
    base,
    guard,
)
from tests.support.servers.guard import carriers, sweep
from tests.support.servers.run import Run
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = str(ROOT / "scripts" / "servers.py")


def test_redis_keeps_acknowledged_writes_over_a_kill(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("name", "value")
        first = redis_server.pid
        redis_server.kill()
        redis_server.start()
        assert client.get("name") == b"value"
    assert redis_server.pid != first


def test_shared_rabbitmq_dead_letters_at_least_once(rabbitmq_url: str) -> None:
    # At-least-once dead-lettering needs the feature flags quorum_queue and stream_queue.
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare("dead", durable=True, arguments=arguments)
        arguments |= {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-message-ttl": 10,
        }
        channel.queue_declare("delay", durable=True, arguments=arguments)
        channel.confirm_delivery()
        channel.basic_publish("", "delay", b"body")
        wait_until(lambda: channel.basic_get("dead", auto_ack=True)[2] == b"body")


def test_clickhouse_keeps_its_tables_over_a_restart(clickhouse_server: ClickHouseServer) -> None:
    def ask(query: str, suffix: str = "") -> str:
        url = f"{clickhouse_server.http_url}/{suffix}"
        with urllib.request.urlopen(url, data=query.encode(), timeout=10) as answer:
            return str(answer.read().decode())

    ask("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    ask("INSERT INTO t VALUES (7)")
    clickhouse_server.restart()
    assert ask("SELECT n FROM t", "?user=relay&password=relay-secret") == "7\n"
    with pytest.raises(urllib.error.HTTPError):
        ask("SELECT 1", "?user=relay&password=wrong")


@pytest.mark.process  # a quick run has no servers
@pytest.mark.parametrize("kind", KINDS)
def test_guard_finds_each_shared_server_by_its_environment(kind: str) -> None:
    pid = os.environ.get(f"FORMRELAY_TEST_{kind.upper()}_PID")
    if not pid:
        skip_or_fail(f"scripts/servers.py started no {kind}")
    # The tests have the tokens of all runs around them; one of these runs started the server.
    assert any(int(pid) in carriers(token) for token in os.environ[guard.TOKENS].split(":"))


def test_sweep_finds_children_that_lost_their_environment() -> None:
    run = Run()
    # As with a Valkey that writes its title over its environment.
    command = "env -i sleep 600 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", command], env=run.env(), stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        assert carriers(run.token) == {shell.pid, child}
        assert len(sweep(run.token)) == 2
    run.close()
    assert not _alive(child)
    assert not run.folder.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_run(signum: signal.Signals, redis_server: RedisServer) -> None:
    # The command leaves a process in a session of its own, like a worker that a test forgot.
    command = "setsid sleep 600 & echo $! $FORMRELAY_TEST_REDIS_PID; exec sleep 600"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FORMRELAY_TEST_")}
    with subprocess.Popen(
        [sys.executable, SERVERS, "run", "--only", "redis", "--", "sh", "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 2
        run.send_signal(signum)
        status = run.wait(30)
        wait_until(lambda: not any(_alive(pid) for pid in pids))
    assert status == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert redis_server.running, "a server of another run was touched"


def test_the_error_of_a_server_that_does_not_start_has_its_log() -> None:
    server = RedisServer()
    (server.data_dir / "appendonlydir").touch()
    with pytest.raises(ServerError, match=r"(?s)redis ended with status 1 .*appendonlydir"):
        server.start()
    server.close()


def test_a_server_does_not_start_on_an_occupied_port() -> None:
    with RedisServer() as first:
        second = RedisServer()
        second.port = first.port
        with pytest.raises(ServerError, match="something else listens on port"):
            second.start()
        assert first.running


@pytest.mark.skipif(sys.platform != "linux", reason="ports are claimed on Linux alone")
def test_a_port_that_another_process_has_claimed_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = "import sys; from tests.support.servers.base import free_port; print(free_port())"
    command = [sys.executable, "-c", f"{claim}; sys.stdout.flush(); sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout is not None
        claimed = int(other.stdout.readline())
        ports = iter([claimed, free := base.free_port()])
        base._used_ports.pop(free).close()
        monkeypatch.setattr(random, "randrange", lambda *_: next(ports))
        assert base.free_port() == free
        other.communicate("")


def test_a_missing_server_is_an_error_in_ci_and_skipped_elsewhere(tmp_path: Path) -> None:
    arguments = ["run", "--only", "redis", "--", sys.executable, "-c", "print('ran')"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FORMRELAY_TEST_")}
    for ci, status, printed in (("true", 1, ""), ("", 0, "ran\n")):
        done = subprocess.run(
            [sys.executable, "-m", "tests.scripts.servers_without_redis", *arguments],
            cwd=ROOT,
            env={**environment, "CI": ci},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, printed), done.stderr
        assert "redis is not installed" in done.stderr


def _alive(pid: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:2]
    except FileNotFoundError:
        return False
