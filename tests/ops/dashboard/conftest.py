"""Fixtures: the dashboard on real Redis, with a client for each role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import dramatiq
import orjson
import pytest
from werkzeug.test import Client, TestResponse

from formrelay.brokers import BrokerOptions
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.dashboard import make_app
from formrelay.ops.dashboard.access import Access, LoopbackAccess, Role, TokenAccess
from tests.state.stores import state_of

TOKENS = {Role.OPERATOR: "operator-token-1234", Role.READ_ONLY: "read-only-token-1234"}
ORIGIN = {"Origin": "http://localhost"}
#: Markup, colours and a title for a terminal, text directions, a template, hidden characters.
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{7*7}}{% x %}&amp;"
    "\x1b[31mred\x1b]0;title\x07\u202eevil\u2066\u200f\u2028\x85\x00\r\n\t\u200b"
)


class Site:
    """A dashboard and its clients."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.client = Client(self.app(LoopbackAccess()))

    def app(self, access: Access, **options: Any) -> Any:
        """An application on the broker."""
        return make_app(lambda: self.broker, access=access, **options)

    def with_tokens(self, role: Role | None = None, **options: Any) -> Client:
        """A client of an application with a login; logged in with a role."""
        client = Client(self.app(TokenAccess(lambda: TOKENS), **options))
        if role is not None:
            answer = client.post("/login/token", data={"token": TOKENS[role]}, headers=ORIGIN)
            assert answer.status_code == 303, answer.text
        return client

    def page(self, path: str, status: int = 200) -> str:
        """The text of a page."""
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, **fields: str) -> TestResponse:
        """Send a form as an operator."""
        return self.client.post(path, data=fields, headers=ORIGIN)

    def add(self, queue: str, state: str, id: str | bytes, **fields: Any) -> None:
        """Write a message to Redis as it is stored, so that every field can be anything.

        Args:
            state: waiting, scheduled or dead.
            fields: fields of the message.
        """
        message = {
            "queue_name": queue,
            "actor_name": "deliver",
            "args": [],
            "kwargs": {},
            "options": {},
            "message_id": id if isinstance(id, str) else id.decode(errors="replace"),
            "message_timestamp": 1_790_000_000_000,
            **fields,
        }
        body, keys = orjson.dumps(message), self.broker.keys
        client = self.broker.client
        if state == "waiting":
            client.hset(keys.bodies(queue), id, body)
            client.rpush(keys.waiting(queue), id)
        elif state == "scheduled":
            client.hset(keys.scheduled_bodies(queue), id, body)
            client.zadd(keys.scheduled(queue), {id: 4_000_000_000_000})
        else:
            client.hset(keys.dead_bodies(queue), id, body)
            client.zadd(keys.dead(queue), {id: 1_790_000_000_000 + client.zcard(keys.dead(queue))})


@pytest.fixture
def site(redis_url: str) -> Iterator[Site]:
    broker = RedisBroker(redis_url, options=BrokerOptions())
    broker.state = state_of(redis_url)

    @dramatiq.actor(broker=broker, queue_name="webhooks")
    def deliver(payload: Any = None) -> None:
        pass

    yield Site(broker)
    broker.close()


@contextmanager
def serving(server: Any) -> Iterator[str]:
    """Run a waitress server in a thread; its URL."""
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.close()
        thread.join(timeout=10)
