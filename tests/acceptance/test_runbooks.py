"""Every command of docs/operating.md and docs/troubleshooting.md runs, on both brokers.

Each symptom is brought about, its first commands show the cause, and its last commands mend it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import InvalidJob, SinkTransient
from tests.support.harness import Harness
from tests.support.runbook import Operator, sections
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

OPERATING, TROUBLE = sections("operating.md"), sections("troubleshooting.md")
WEBHOOK = {"url": "http://127.0.0.1:9/hook", "body": {"formId": "signup"}, "secret": "s" * 24}
#: An actor whose first run hangs.
HANGING = """
import os, threading
import dramatiq
from formrelay.brokers import get_broker
get_broker()
@dramatiq.actor(queue_name="pictures")
def draw(picture):
    try:
        with open("hangs", "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return open("drawn", "w").close()
    threading.Event().wait()
"""


@pytest.fixture(
    params=[
        pytest.param("Redis", marks=pytest.mark.redis),
        pytest.param("RabbitMQ", marks=pytest.mark.rabbitmq),
    ]
)
def operator(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Operator:
    """An operator of a broker without jobs."""
    env = {"WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8"}
    env |= {"HEARTBEAT_TIMEOUT": "1", "API_URL": "http://127.0.0.1:9"}
    if request.param == "Redis":
        env["REDIS_URL"] = redis_url
    else:
        env["RABBITMQ_URL"] = request.getfixturevalue("rabbitmq_url")
        env["RABBITMQ_API_URL"] = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
        env["STATE_URL"] = redis_url
    return Operator(request.param, tmp_path, env)


def send(operator: Operator, *options: str) -> str:
    """Send a webhook; return its id."""
    command = ("send", "deliver_webhook", f"'{json.dumps(WEBHOOK)}'", *options)
    return operator(" ".join(("formrelay", *command))).strip()


def queue(operator: Operator, name: str = "webhooks") -> dict[str, Any]:
    counts = operator.json("formrelay queues")
    return next((found for found in counts if found["queue"] == name), {})


def bury(operator: Operator, *errors: Exception) -> list[str]:
    """Have a worker dead-letter webhooks with these errors; return their ids."""
    left = list(errors)

    def fail(**call: Any) -> None:
        raise left.pop()

    broker: RedisBroker | RabbitBroker
    if operator.broker == "Redis":
        broker = RedisBroker(operator.env["REDIS_URL"], options=BrokerOptions())
    else:
        url, workers = operator.env["RABBITMQ_URL"], {"webhooks": "webhook"}
        broker = RabbitBroker(url, options=BrokerOptions(), workers=workers)
    harness = Harness(broker, "webhooks")
    actor = harness.actor(fail, actor_name="deliver_webhook", max_retries=0)
    try:
        sent = [actor.send(payload=WEBHOOK).message_id for _ in errors]
        harness.start(threads=1)
        wait_until(lambda: len(harness.dead()) == len(errors))
    finally:
        harness.close()
    return sent


@contextmanager
def restored(folder: Path, snapshot: str) -> Iterator[str]:
    """A Redis that starts with a snapshot; yields its URL."""
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    options += ["--dbfilename", snapshot, "--appendonly", "no", "--logfile", "redis.log"]
    with subprocess.Popen(["redis-server", *options]) as server:
        try:
            wait_until(socket.exists)
            yield f"unix://{socket}"
        finally:
            server.terminate()


def test_each_section_with_commands_is_tested() -> None:
    assert [*TROUBLE] == [
        "",
        "Nothing runs",
        "A queue grows",
        "Jobs are stuck in flight",
        "Memory is high",
        "Webhooks time out",
        "Dead letters grow",
        "A job is gone",
    ]


def test_nothing_runs(operator: Operator) -> None:
    send(operator)
    operator("formrelay queues pause webhooks")
    operator.follow(TROUBLE[""], {"formrelay doctor": (1, "workers +weak +none is alive")})
    operator.follow(
        TROUBLE["Nothing runs"],
        {
            "formrelay workers": (1, "no workers"),
            "formrelay queues ": r"webhooks +1 .* paused",
            "formrelay config": "BROKER_NAMESPACE",
            "formrelay queues resume": "resumed: webhooks",
        },
        until=lambda: queue(operator)["waiting"] == 0,
    )


def test_a_queue_grows(operator: Operator) -> None:
    send(operator)
    later = send(operator, "--delay", "3600")
    operator.words = {"ID": later}
    operator.follow(
        TROUBLE["A queue grows"],
        {
            "formrelay queues  ": r"webhooks +1 ",
            "formrelay workers": (1, "no workers"),
            "formrelay queues purge webhooks --dry-run": r"would be deleted: \d",
            "formrelay queues purge webhooks  ": r"deleted: \d",
        }
        | ({"formrelay jobs list": later} if operator.broker == "Redis" else {}),
        until=(lambda: queue(operator)["waiting"] == 0) if operator.broker == "Redis" else None,
    )
    assert not queue(operator)["paused"]
    if operator.broker == "Redis":
        assert queue(operator)["scheduled"] == 0


def test_jobs_are_stuck_in_flight(operator: Operator) -> None:
    (operator.folder / "hanging.py").write_text(HANGING)
    hangs, drawn = operator.folder / "hangs", operator.folder / "drawn"
    operator("formrelay send draw '{}' --import hanging")
    started = operator.start("formrelay worker --queue pictures --import hanging")
    wait_until(lambda: hangs.exists() and hangs.read_text())
    pid = hangs.read_text()
    operator.words = {"webhooks": "pictures", "PID": pid}
    lines = [
        line.replace("worker --queue", "worker --import hanging --queue")
        for line in TROUBLE["Jobs are stuck in flight"]
    ]
    expected: dict[str, Any] = {"formrelay queues": r"pictures +0 +0 +1 "}
    expected["formrelay workers"] = "pictures"
    if operator.broker == "Redis":
        expected["formrelay jobs list"] = rf"draw .*:{pid}"
    else:  # counts of the management API are up to five seconds old
        expected |= {"formrelay queues": "pictures", "formrelay workers": (0, 1, "")}
    operator.follow(lines, expected, until=drawn.exists)
    assert started.wait(60) != 0


def test_memory_is_high(operator: Operator) -> None:
    (old,) = bury(operator, SinkTransient("no"))
    expected = {
        "formrelay queues": r"webhooks +0 +\S+ +\S+ +1 ",
        "formrelay dlq delete --queue webhooks --until 7d --dry-run": "would be deleted: 0",
        "formrelay dlq delete --queue webhooks --until 7d": "deleted: 0",
    }
    if operator.broker == "Redis":
        broker = RedisBroker(operator.env["REDIS_URL"], options=BrokerOptions())
        broker.client.zadd(broker.keys.dead("webhooks"), {old: (time.time() - 8 * 86_400) * 1000})
        broker.close()
        expected |= {
            "formrelay dlq delete --queue webhooks --until 7d --dry-run": "would be deleted: 1",
            "formrelay dlq delete --queue webhooks --until 7d": "deleted: 1",
            'redis-cli -u "$REDIS_URL" info memory': "used_memory_human",
            'redis-cli -u "$REDIS_URL" --memkeys': "webhooks.XQ.msgs",
        }
    operator.follow(TROUBLE["Memory is high"], expected)


def test_webhooks_time_out(operator: Operator) -> None:
    operator.env |= {"WEBHOOK_MAX_RETRIES": "0", "WEBHOOK_TIMEOUT_SECONDS": "1"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        payload = {**WEBHOOK, "url": f"http://127.0.0.1:{silent.getsockname()[1]}/hook"}
        id = operator(f"formrelay send deliver_webhook '{json.dumps(payload)}'").strip()
        with operator.typing("formrelay worker --queue webhooks"):
            wait_until(lambda: queue(operator)["dead"] == 1, every=0.3)
    (endpoint,) = operator.json("formrelay webhooks endpoints")
    name = endpoint.get("id") or endpoint["endpoint"]
    operator.words = {"ID": id, "ENDPOINT": name, "FORM": "signup"}
    operator.follow(
        TROUBLE["Webhooks time out"],
        {
            "formrelay webhooks endpoints  ": "failing",
            "formrelay dlq list": "attempts_exhausted",
            "formrelay webhooks attempts": "127.0.0.1",
            "formrelay dlq replay": "replayed: 1",
        },
    )


def test_dead_letters_grow(operator: Operator) -> None:
    first, _ = bury(operator, InvalidJob("no such field"), SinkTransient("no room"))
    (group,) = operator.json("formrelay dlq groups --error SinkTransient")["groups"]
    operator.words = {"ID": first, "GROUP": group["id"]}
    operator.follow(
        TROUBLE["Dead letters grow"],
        {
            "formrelay queues  ": r"webhooks +0 +\S+ +\S+ +2 ",
            "formrelay dlq groups": "no room",
            "formrelay dlq list": "no room",
            "formrelay dlq show": "attempts_exhausted",
            "formrelay dlq replay --group GROUP --dry-run": "would be replayed: 1",
            "formrelay dlq replay --group GROUP --rate": "replayed: 1",
            "formrelay dlq delete": "deleted: 1",
        },
    )
    assert "no such field" in (operator.folder / "invalid.ndjson").read_text()


def test_a_job_is_gone(operator: Operator) -> None:
    (dead,) = bury(operator, SinkTransient("no room"))
    gone = send(operator)
    operator("formrelay queues purge webhooks")
    operator.words = {"ID": gone}
    find, repair = TROUBLE["A job is gone"][:4], TROUBLE["A job is gone"][4:]
    operator.follow(
        find,
        {
            "formrelay jobs show": (1, "there is no job|not available"),
            "formrelay webhooks attempts": (1, gone),
            "formrelay audit": "queues purge",
            "formrelay doctor": (1, "broker +ok"),
        },
    )
    operator.words = {"ID": dead}
    operator.follow(repair, {"formrelay webhooks resend": f"replayed: {dead}"})


def test_operating(operator: Operator, clickhouse_url: str, clickhouse_database: str) -> None:
    operator.env |= {"CLICKHOUSE_URL": clickhouse_url, "CLICKHOUSE_DATABASE": clickhouse_database}
    operator("formrelay migrate")
    first, second = bury(operator, SinkTransient("no"), SinkTransient("no"))
    scheduled = send(operator, "--delay", "3600")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    operator.words = {"ID": second, "dashboard": f"dashboard --bind {address}"}

    def dashboard_answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}/") as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def worker_runs() -> bool:
        return bool(operator.json("formrelay workers"))

    expected: dict[str, dict[str, Any]] = {
        "Every day": {
            "formrelay doctor": (1, "broker +ok"),  # there is no API
            "formrelay queues": r"webhooks +0 +\S+ +\S+ +2 ",
            "formrelay workers": (1, "no workers"),
            "formrelay dlq list": first,
            "formrelay webhooks endpoints": "no failing endpoints",
        },
        "Look at jobs": {"formrelay jobs list --queue webhooks --state dead": first},
        "Pause, replay, delete": {
            "formrelay queues pause": "paused",
            "formrelay dlq replay --queue webhooks --since 2h --dry-run": "would be replayed: 1",
            "formrelay dlq replay --queue webhooks --since 2h  ": "replayed: 1",
            "formrelay queues resume": "resumed",
        },
        "Health checks": {"formrelay health": (1, "webhooks")},
        "Start and stop workers": {},
        "More or fewer workers": {},
        "Deploy": {"formrelay migrate --dry-run": ""},
        "Back up": {},
        "Upgrade": {"formrelay version": "dramatiq"},
    }
    if operator.broker == "Redis":
        expected["Look at jobs"]["formrelay jobs list --queue webhooks --state sch"] = scheduled
    assert [*OPERATING] == [*expected]
    starts = {"Every day": dashboard_answers, "Start and stop workers": worker_runs}
    for heading, texts in expected.items():
        # Workers and dashboard are started on Redis alone; the symptoms start workers on both.
        until = starts.get(heading) if operator.broker == "Redis" else None
        operator.follow(OPERATING[heading], texts, until)
    if operator.broker == "RabbitMQ":
        definitions = json.loads((operator.folder / "rabbit.json").read_text())
        assert "webhooks" in [found["name"] for found in definitions["queues"]]
        return
    counts = queue(operator)
    assert counts["scheduled"]
    with restored(operator.folder, "jobs.rdb") as url:
        operator.env["REDIS_URL"] = url
        assert queue(operator) == counts
