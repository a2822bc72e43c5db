"""Fixtures: the actors, declared once a session on the embedded broker, with short waits.

The first use of an actor binds all actors to the settings in force, so tests get the actors from
`site`, which sets the session's settings first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from dramatiq import Worker
from pydantic import SecretStr

from formrelay import actors
from formrelay.actors import resources, submissions
from formrelay.actors.emails import resources as emails
from formrelay.actors.sheets import resources as sheets
from formrelay.actors.webhooks import delivery_log
from formrelay.actors.webhooks import resources as deliveries
from formrelay.brokers import get_broker
from formrelay.config import Settings, use_settings
from formrelay.core import throttle
from formrelay.core.retry import Exponential
from tests.actors.receiver import Receiver, receiving
from tests.middleware.embedded import embedded_server
from tests.middleware.lines import lines
from tests.support.harness import Harness, flush_embedded
from tests.support.waiting import wait_until

__all__ = ["lines"]

ENVIRON = {
    "BROKER": "embedded",
    "CLICKHOUSE_URL": "clickhouse://127.0.0.1:1",
    "CLICKHOUSE_CONNECT_TIMEOUT_SECONDS": "2",
    "API_TOKEN": "the-api-token",
    "API_TIMEOUT_SECONDS": "5",
    "API_CONNECT_TIMEOUT_SECONDS": "2",
    "EVENT_BATCH_SIZE": "40",
    "EVENT_BATCH_WAIT_MS": "50",
    "EVENT_MAX_RETRIES": "2",
    "EVENT_RETRY_DELAYS": "0,0.1",
    "EVENT_RETRY_JITTER": "0",
    "SUBMISSION_MAX_RETRIES": "2",
    "SUBMISSION_RETRY_DELAYS": "0,0.1",
    "SUBMISSION_RETRY_JITTER": "0",
    "PARTIAL_MAX_RETRIES": "2",
    "PARTIAL_RETRY_DELAYS": "0,0.1",
    "PARTIAL_RETRY_JITTER": "0",
    "EMAIL_MAX_RETRIES": "3",
    "EMAIL_RETRY_DELAYS": "0,0.1",
    "EMAIL_RETRY_JITTER": "0",
    "SHEETS_BATCH_SIZE": "50",
    "SHEETS_BATCH_WAIT_MS": "50",
    "SHEETS_MAX_RETRIES": "2",
    "SHEETS_RETRY_DELAYS": "0,0.1",
    "SHEETS_RETRY_JITTER": "0",
    "WEBHOOK_MAX_RETRIES": "3",
    "WEBHOOK_RETRY_DELAYS": "0,0.1,0.2,1.1",
    "WEBHOOK_RETRY_JITTER": "0",
    "WEBHOOK_ALLOW_HTTP": "true",
    "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8",
    "WEBHOOK_TIMEOUT_SECONDS": "5",
    "WEBHOOK_DELIVERY_LOG": "false",  # as above
    "WEBHOOK_BREAKER_FAILURES": "50",  # tests of the circuit breaker set their own
}


class Site:
    """The actors, their broker, and a worker for their queues."""

    def __init__(self, settings: Settings, url: str) -> None:
        assert "broker" not in vars(actors.record_events), "the actors are bound to other settings"
        use_settings(settings)
        actors.declare_actors()
        self.settings, self._url = settings, url
        self.actors, self.submissions = actors, submissions
        self.broker = get_broker()
        self.worker: Worker | None = None

    def start(self, *queues: str) -> None:
        """Start a worker for the queues (default: all queues)."""
        chosen = set(queues) or None
        self.worker = Worker(self.broker, queues=chosen, worker_timeout=50, worker_threads=4)
        self.worker.start()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop(timeout=10_000)
            self.worker = None

    def work_off(self, *queues: str) -> None:
        """Run a worker until the queues are empty, including scheduled messages."""
        self.start(*queues)
        wait_until(lambda: self.is_idle(*queues))
        self.stop()

    def inject(self, queue: str, *bodies: bytes) -> None:
        """Put raw bytes on a queue, as other publishers may."""
        keys, client = self.broker.keys, self.broker.client  # type: ignore[attr-defined]
        with client.pipeline(transaction=False) as pipeline:
            for body in bodies:
                id = f"foreign-{uuid4()}"
                pipeline.hset(keys.bodies(queue), id, body)
                pipeline.rpush(keys.waiting(queue), id)
            pipeline.execute()

    def dead(self, queue: str) -> list[Any]:
        return list(self.broker.dead_letters(queue))

    def use(self, **sections: dict[str, Any]) -> None:
        """Change sections of the settings; the sinks are created again at their next use."""
        update = {
            name: getattr(self.settings, name).model_copy(update=changes)
            for name, changes in sections.items()
        }
        use_settings(self.settings.model_copy(update=update))
        self._forget_sinks()

    def use_clickhouse(self, url: str, database: str) -> Any:
        """Migrate a database and use it for events; returns its client."""
        from formrelay.sinks.clickhouse import migrate

        self.use(clickhouse={"url": SecretStr(url), "database": database})
        client = resources.clickhouse()
        migrate.apply(client)
        return client

    def waiting(self, *names: str) -> int:
        """Number of waiting messages on the queues (default: all queues)."""
        return sum(self.broker.counts(name).waiting for name in names or self.broker.queues)

    def messages(self, name: str) -> list[dict[str, Any]]:
        """The waiting messages of a queue as stored, decoded from JSON, in order."""
        keys, client = self.broker.keys, self.broker.client  # type: ignore[attr-defined]
        ids = client.lrange(keys.waiting(name), 0, -1)
        return [orjson.loads(client.hget(keys.bodies(name), id)) for id in ids]

    def is_idle(self, *queues: str) -> bool:
        """Whether no message waits, is scheduled or in flight on the queues (default: all)."""
        return all(Harness(self.broker, name).is_empty() for name in queues or self.broker.queues)

    def reset(self) -> None:
        self.stop()
        flush_embedded(self._url)
        use_settings(self.settings)
        self._forget_sinks()

    def _forget_sinks(self) -> None:
        for made in (resources.clickhouse, resources.api, deliveries.egress):
            made.forget()
        for sync in deliveries.registry_sync.forget():
            sync.stop()
        delivery_log.delivery_log.forget()
        for shared in emails.email_resources.forget():
            shared.pool.close()
        resources.clickhouse_throttle.note(None)
        resources.api_throttle.note(None)
        sheets.sheet_resources.forget()
        resources.sheets_throttle.note(None)
        resources.smtp_throttle._paused_until = 0.0  # a pause for a limit
        resources.smtp_throttle._timer.reset()  # or for a login, of ten minutes
        resources.smtp_throttle.note(None)


@pytest.fixture(scope="session")
def session_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = Path(tmp_path_factory.mktemp("actors"))
    environ = {**ENVIRON, "EMBEDDED_DATA_DIR": str(folder)}
    with embedded_server(folder) as url:
        site = Site(Settings.load(environ=environ, env_file=None), url)
        yield site
        site.stop()
        site.broker.close()


@pytest.fixture
def site(session_site: Site) -> Iterator[Site]:
    session_site.reset()
    yield session_site
    session_site.reset()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause after failures of a sink for 0.25, 0.5 and 1 s instead of 1, 2 and 4 s."""
    monkeypatch.setattr(throttle, "_BACKOFF", Exponential(base=timedelta(seconds=0.25)))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
