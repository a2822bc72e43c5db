"""Jobs of the Node publishers reach the right actor, unchanged and once."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pika
import pytest

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.failure import Reason
from tests.actors.receiver import Answer, Receiver, receiving
from tests.foreign.node import publish
from tests.support.brokers import BROKERS
from tests.support.command import Program, clean_environment, start_python
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ACTORS = {
    "event.record": "record_events",
    "submission.save": "save_submission",
    "webhook.send": "deliver_webhook",
    "email.send": "send_email",
}
pytestmark = pytest.mark.shared_vhost

ODD = "Łukasz \u2028 \u0000 😀 \"'\\ é ß 漢字"


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def _broker(url: str) -> RelayBroker:
    if url.startswith("amqp"):
        return RabbitBroker(url, options=BrokerOptions(), workers={"webhooks": "webhook"})
    return RedisBroker(url, options=BrokerOptions())


class Site:
    """A broker whose actors record their calls as ``(actor, payload, metadata)``."""

    def __init__(self, url: str, queue: str) -> None:
        self.url, self.queue = url, queue
        self.harness = Harness(_broker(url), queue)
        self.got: list[tuple[str, Any, Any]] = []
        for job_type, name in ACTORS.items():
            self.harness.actor(self._noting(name), actor_name=name, job_type=job_type)
        self.harness.broker.counts(queue)  # declares the queue

    def _noting(self, name: str) -> Any:
        def note(payload: Any, metadata: Any) -> None:
            self.got.append((name, payload, metadata))

        return note

    def publish(self, *lines: Any) -> None:
        done = publish(self.url, self.queue, lines)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{len(lines)} sent to {self.queue}\n"

    def work(self, *, until: int, timeout: float = 20, threads: int = 4) -> None:
        """Run a worker until ``until`` jobs ran or were dead-lettered, and the queue is empty."""
        self.harness.start(threads=threads)
        wait_until(
            lambda: len(self.got) + len(self.harness.dead()) >= until and self.harness.is_empty(),
            timeout=timeout,
        )


@pytest.fixture
def site(url: str, unique: str) -> Iterator[Site]:
    site = Site(url, unique)
    yield site
    site.harness.close()


def test_each_job_type_reaches_its_actor_with_unchanged_payload_and_metadata(site: Site) -> None:
    jobs: list[dict[str, Any]] = [
        {
            "type": "event.record",
            "payload": [{"type": ODD, "n": 2**53}],
            "metadata": {"formId": ODD},
        },
        {"type": "submission.save", "payload": {"snake_case": 1, "camelCase": None}},
        {
            "type": "webhook.send",
            "payload": {"body": [True, 1.5, "", {}]},
            "metadata": {"x": {"y": []}},
        },
    ]
    site.publish(*jobs)
    site.work(until=3)
    expected = [(ACTORS[job["type"]], job["payload"], job.get("metadata", {})) for job in jobs]
    assert sorted(site.got, key=str) == sorted(expected, key=str)
    assert site.harness.dead() == []


def test_invalid_jobs_are_dead_lettered_and_others_run(site: Site) -> None:
    good = [{"type": "event.record", "payload": {"n": number}} for number in range(4)]
    bad = [
        ('{"type": "event.recrod", "payload": {}}', "expected a known job type"),
        ('{"type": "event.record", "payload": ', "expected JSON"),
        ('{"payload": {}}', "expected a message with"),
        ('["event.record"]', "expected a JSON object"),
        ('{"type": ["event.record"]}', "expected a known job type"),
    ]
    lines: list[Any] = [good[0]]
    for index, (text, _) in enumerate(bad):
        lines += [text, good[index % 3 + 1]]
    site.publish(*lines)
    site.work(until=len(lines))
    ran = Counter(payload["n"] for _, payload, _ in site.got)
    assert ran == {0: 1, 1: 2, 2: 2, 3: 1}
    dead = site.harness.dead()
    assert {letter.failure.reason for letter in dead} == {Reason.UNDECODABLE}
    for _, cause in bad:
        assert any(cause in letter.failure.message for letter in dead), cause
    assert len(dead) == len(bad)


def test_a_thousand_jobs_arrive_once_each(site: Site) -> None:
    site.publish(*({"type": "event.record", "payload": {"n": n}} for n in range(1_000)))
    site.work(until=1_000, threads=32)
    assert Counter(payload["n"] for _, payload, _ in site.got) == Counter(range(1_000))
    assert site.harness.dead() == []


def test_redis_an_inbox_is_drained_without_pauses(redis_url: str, unique: str) -> None:
    # Redis only: RabbitMQ has no inbox.
    site = Site(redis_url, unique)
    site.publish(*({"type": "event.record", "payload": {"n": n}} for n in range(1_000)))
    site.harness.start()
    try:
        wait_until(lambda: len(site.got) == 1_000, timeout=20)  # 125 pauses take 25 s
    finally:
        site.harness.close()


def test_an_idle_worker_starts_a_new_job_at_once(site: Site) -> None:
    site.harness.start()
    site.publish({"type": "event.record", "payload": {"n": 1}})
    wait_until(lambda: site.got)


def test_the_example_of_the_publisher_is_an_event(url: str) -> None:
    site = Site(url, "events")
    try:
        done = publish(url, "events")
        assert (done.returncode, done.stdout) == (0, "1 sent to events\n"), done.stderr
        site.work(until=1)
        ((actor, payload, metadata),) = site.got
        assert (actor, payload["formId"], metadata) == (
            "record_events",
            "signup",
            {"formId": "signup"},
        )
    finally:
        site.harness.close()


def test_an_unavailable_broker_is_retried_and_then_an_error() -> None:
    def send(url: str) -> subprocess.CompletedProcess[str]:
        return publish(url, "q", [{"type": "event.record", "payload": {}}])

    with ThreadPoolExecutor() as side_by_side:
        tried = list(side_by_side.map(send, ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1/"]))
    for done in tried:
        assert done.returncode == 1
        assert done.stderr.count("retrying in") == 4
        assert "0 were sent" in done.stderr


def test_a_missing_queue_or_url_is_wrong_use() -> None:
    assert publish("redis://127.0.0.1:1/0", "").returncode == 2
    assert publish("", "q").returncode == 2


def test_rabbitmq_a_missing_queue_is_an_error(rabbitmq_url: str) -> None:
    # RabbitMQ only: a list in Redis needs no declaration.
    done = publish(rabbitmq_url, "nobody", [{"type": "event.record", "payload": {}}])
    assert (done.returncode, done.stdout) == (1, "")
    assert 'there is no queue "nobody"' in done.stderr
    assert "retrying in" not in done.stderr


def test_rabbitmq_messages_are_persistent_and_have_an_id(rabbitmq_url: str, unique: str) -> None:
    # RabbitMQ only: on Redis a job has no properties.
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.queue_declare(unique, durable=True)
        job = {"type": "event.record", "payload": {}}
        assert publish(rabbitmq_url, unique, [job, job]).returncode == 0
        got = [channel.basic_get(unique, auto_ack=True)[1] for _ in range(2)]
    assert [one.delivery_mode for one in got] == [2, 2]
    assert len({one.message_id for one in got} - {None}) == 2


# -- with formrelay's actors ------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def worker(url: str, tmp_path: Path) -> Iterator[Program]:
    kind = "rabbitmq" if url.startswith("amqp") else "redis"
    environment = clean_environment(
        **{
            "BROKER": kind,
            f"{kind.upper()}_URL": url,
            "WEBHOOK_ALLOW_HTTP": "true",
            "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8",
            "WEBHOOK_MAX_RETRIES": "0",
        }
    )
    process = start_python(
        *("-m", "dramatiq", "formrelay.worker", "--processes", "1"),
        *("--threads", "4", "--queues", "webhooks"),
        cwd=tmp_path,
        env=environment,
        log=tmp_path / "log",
    )
    yield process
    process.terminate()
    process.wait(timeout=20)


def test_the_actors_accept_camel_case_and_snake_case_and_report_errors(
    url: str, worker: Program, receiver: Receiver
) -> None:
    receiver.answers("/hook", then=Answer(204))
    broker = _broker(url)
    broker.declare_queue("webhooks")

    def job(**payload: Any) -> dict[str, Any]:
        whole = {"url": f"{receiver.url}/hook", "secret": "s3cret", "body": {"a": ODD}, **payload}
        return {"type": "webhook.send", "payload": whole, "metadata": {"form_id": "f"}}

    jobs = [
        job(id="camel", endpointId="e1"),
        job(id="broken", body=None, url=7),
        job(id="snake", endpoint_id="e2"),
    ]
    # On RabbitMQ the starting worker declares the queue; until then, publishing fails as in the
    # test above.
    wait_until(lambda: publish(url, "webhooks", jobs).returncode == 0)
    try:
        wait_until(lambda: len(receiver.of("/hook")) == 2)
        (letter,) = wait_until(lambda: list(broker.dead_letters("webhooks")))
    finally:
        broker.close()
    assert {one.headers["webhook-id"] for one in receiver.requests} == {"camel", "snake"}
    assert all(one.json == {"a": ODD} for one in receiver.requests)
    assert letter.message.actor_name == "deliver_webhook"
    assert letter.message.kwargs["metadata"] == {"form_id": "f"}
    assert letter.failure is not None
    assert letter.failure.reason is Reason.INVALID
    assert "payload.url" in letter.failure.message
