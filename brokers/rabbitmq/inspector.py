"""Looks at queues in RabbitMQ, and at the dead letters' fate.

AMQP tells how many messages wait and lets the dead ones be looked at; the management
API, where it is configured, who works and how many messages are in flight. What
waits cannot be looked at: RabbitMQ would mark each message as one that a worker may
have died of.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests

from ..base import RelayBroker
from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import (
    DeadFilter,
    Entry,
    NotAvailable,
    Page,
    QueueCounts,
    State,
    UnknownCursor,
    Which,
    WorkerInfo,
)
from ..inspector import Inspector, Progress, silent
from . import pauses
from .client import RabbitClient
from .connection import Connection
from .dead_letters import DeadDelivery, Walk, counted, look, ready
from .servers import PRODUCT

logger = logging.getLogger("formrelay.brokers")

#: How long a look at dead letters takes at most, in seconds.
_A_LOOK = 2.0
#: How many older dead letters are passed to get to the newest.
_MOST_PASSED = 500


class RabbitInspector(Inspector):
    """Looks at the queues of one RabbitMQ."""

    def __init__(
        self, broker: RelayBroker, client: RabbitClient, management: Management | None
    ) -> None:
        super().__init__(broker)
        self._client = client
        self._management = management
        self._look = partial(look, client, job_types=broker.job_types)

    # -- looking -----------------------------------------------------------------------

    def counts(self, queue: str) -> QueueCounts:
        with self._client.control() as connection:
            self._client.declared.ensure(connection, [queue])
            waiting = ready(connection, queue)
            dead = self._dead_count(connection, queue)
            try:
                is_paused = pauses.is_paused(connection, queue, self._client.connect)
            except BrokerRefused:
                is_paused = None
        return QueueCounts(
            queue,
            waiting,
            scheduled=None,  # the delay queues are shared by all queues
            in_flight=self._in_flight(queue),
            dead=dead,
            paused=is_paused,
        )

    def _dead_count(self, connection: Connection, queue: str) -> int:
        """How many are dead; not while somebody looks at them and they cannot be counted."""
        deadline = time.monotonic() + _A_LOOK
        while True:
            found = counted(connection, self._client.topology.dead_queue(queue))
            if not found.consumer_count or time.monotonic() > deadline:
                return int(found.message_count)
            time.sleep(0.02)

    def _in_flight(self, queue: str) -> int | None:
        management = self._management
        if management is None:
            return None
        try:
            return management.in_flight(queue)
        except (BrokerUnavailable, BrokerRefused) as error:
            # The other counts are right without it.
            logger.warning("cannot tell what is in flight", extra={"error": error.message})
            return None

    def browse(
        self, queue: str, state: State, *, limit: int = 50, cursor: str | None = None
    ) -> Page:
        if state is not State.DEAD:
            raise NotAvailable(f"a look at the {state.replace('_', ' ')} messages")
        try:
            first = int(cursor or 0)
        except ValueError:
            raise UnknownCursor from None
        # AMQP has no way to begin further on.
        seen = self._look(queue, limit=first + limit + 1)[first:]
        more = len(seen) > limit
        return Page(seen[:limit], str(first + limit) if more else None)

    def find(self, id: str, queue: str | None = None) -> Entry | None:
        for name in self._queues(queue):
            if (found := self.dead_letter(name, id)) is not None:
                return found
        raise NotAvailable(f"a job that is not dead by its id ({id!r} is not among the dead)")

    def run_now(self, queue: str, id: str) -> bool:
        raise NotAvailable("taking a message out of the delays")

    def workers(self) -> list[WorkerInfo]:
        management = self._management
        if management is None:
            raise NotAvailable("the list of workers without RABBITMQ_API_URL")
        queues: defaultdict[str, set[str]] = defaultdict(set)
        for one in management.consumers():
            queues[one.process].add(one.queue)
        return [
            WorkerInfo(process, None, tuple(sorted(its)), name=process)
            for process, its in sorted(queues.items())
        ]

    # -- pausing -----------------------------------------------------------------------

    def pause(self, queue: str) -> None:
        with self._client.control() as connection:
            pauses.pause(connection, queue)

    def resume(self, queue: str) -> None:
        with self._client.control() as connection:
            pauses.resume(connection, queue, self._client.connect)

    def is_paused(self, queue: str) -> bool:
        with self._client.control() as connection:
            return pauses.is_paused(connection, queue, self._client.connect)

    # -- dead letters ------------------------------------------------------------------

    def dead_letters(self, which: DeadFilter, *, limit: int = 100) -> Iterator[Entry]:
        is_everything = replace(which, queue=None) == DeadFilter()
        for name in self._queues(which.queue):
            if limit <= 0:
                return
            first = limit if is_everything else None
            found = self._look(name, limit=first, is_meant=which.matches)[:limit]
            limit -= len(found)
            yield from found

    def newest_dead(self, queue: str, *, limit: int = 10) -> list[Entry]:
        # They come in the order in which they died, and can be looked at only in that.
        seen = self._look(queue, limit=_MOST_PASSED + 1)
        if len(seen) > _MOST_PASSED:
            raise NotAvailable(f"the newest of more than {_MOST_PASSED} dead letters")
        return seen[::-1][: min(limit, 50)]

    def dead_letter(self, queue: str, id: str) -> Entry | None:
        return next(iter(self._look(queue, is_meant=lambda letter: letter.id == id)), None)

    def dead_ids(
        self, prefix: str, queue: str | None = None, *, limit: int = 10
    ) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name in self._queues(queue):
            its = self._look(name, is_meant=lambda letter: letter.id.startswith(prefix))
            if any(letter.id == prefix for letter in its):
                return [(name, prefix)]
            found += [(name, letter.id) for letter in its]
        return found[:limit]

    def replay(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        return self._act(which, queue, None if dry_run else Walk.replay, progress)

    def delete_dead(
        self,
        which: Which,
        *,
        queue: str | None = None,
        dry_run: bool = False,
        progress: Progress = silent,
    ) -> int:
        return self._act(which, queue, None if dry_run else Walk.delete, progress)

    def _act(
        self,
        which: Which,
        queue: str | None,
        action: Callable[[Walk, list[DeadDelivery]], None] | None,
        progress: Progress,
    ) -> int:
        is_meant: Callable[[Entry], bool]
        if isinstance(which, DeadFilter):
            queue, is_meant, most = which.queue, which.matches, None
        else:
            ids = set(which)
            is_meant, most = (lambda letter: letter.id in ids), len(ids)
        count = 0
        for name in self._queues(queue):
            with Walk(self._client, name, self._of.job_types) as walk:
                for chunk in walk.chunks():
                    found = [letter for letter in chunk if is_meant(letter.entry)]
                    if action is not None:
                        action(walk, found)
                    count += len(found)
                    progress(count)
                    if count == most:
                        return count
        return count


#: What we declare for ourselves is nobody's work.
_OWN = "formrelay."


@dataclass(frozen=True, slots=True)
class ConsumingProcess:
    """A worker process that consumes a queue.

    Attributes:
        connection: its name on the server.
        process: ``host:pid``.
    """

    queue: str
    connection: str
    process: str


class Management:
    """RabbitMQ's management API, which tells what AMQP does not; up to five seconds old.

    Args:
        url: ``http://user:password@host:15672/api``.
        timeout: seconds, to connect and for an answer.
    """

    def __init__(self, url: str, *, virtual_host: str, timeout: float) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        self.where = host if parts.port is None else f"{host}:{parts.port}"
        path = parts.path.rstrip("/").removesuffix("/api")
        self._base = f"{parts.scheme}://{self.where}{path}/api"
        self._login = (unquote(parts.username or "guest"), unquote(parts.password or "guest"))
        self._virtual_host = quote(virtual_host, safe="")
        self._timeout = timeout

    def in_flight(self, queue: str) -> int:
        """How many messages of a queue workers hold, those they only fetched ahead included.

        Raises:
            BrokerUnavailable, BrokerRefused: as all of these.
        """
        found = self._get(f"queues/{self._virtual_host}/{quote(queue, safe='')}")
        return int(found.get("messages_unacknowledged", 0))

    def consumers(self) -> Iterator[ConsumingProcess]:
        """The workers, once for each queue that they consume."""
        connections = self._get(
            f"vhosts/{self._virtual_host}/connections", columns="name,client_properties"
        )
        ours = {
            one["name"]: str(one["client_properties"].get("connection_name"))
            for one in connections
            if one.get("client_properties", {}).get("product") == PRODUCT
        }
        for one in self._get(f"consumers/{self._virtual_host}"):
            queue, connection = one["queue"]["name"], one["channel_details"].get("connection_name")
            if connection in ours and not queue.startswith(_OWN):
                yield ConsumingProcess(queue, connection, ours[connection])

    def _get(self, path: str, **query: str) -> Any:
        try:
            answer = requests.get(
                f"{self._base}/{path}",
                params=query,
                auth=self._login,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise BrokerUnavailable(
                f"expected RabbitMQ's management API at {self.where} to answer, got "
                f"{type(error).__name__}; check that the plugin rabbitmq_management runs and "
                "RABBITMQ_API_URL"
            ) from None
        if answer.status_code != requests.codes.ok:
            raise BrokerRefused(
                f"expected RabbitMQ's management API at {self.where} to answer 200, got "
                f"{answer.status_code}; check RABBITMQ_API_URL, and that its user has the tag "
                "'monitoring' and may see the virtual host"
            )
        return answer.json()
