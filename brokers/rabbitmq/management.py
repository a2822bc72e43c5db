"""The client of RabbitMQ's management API."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests

from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import WorkerInfo
from .servers import PRODUCT
from .topology import OWN_PREFIX

#: Seconds for which an answer and a failure are kept.
_KEEP_SECONDS, _FAILS_SECONDS = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """The figures of a queue.

    Attributes:
        messages: number of messages, those in flight included.
        in_flight: number of messages in flight, prefetched messages included.
    """

    messages: int
    in_flight: int


class Management:
    """Client of RabbitMQ's management API, whose data is up to five seconds old.

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
        #: Answers by path, each with the monotonic seconds until which it is used again.
        self._answers: dict[str, tuple[float, Any]] = {}
        self._failure: BrokerUnavailable | BrokerRefused = BrokerUnavailable("")
        self._fails_until = 0.0

    def figures(self) -> dict[str, QueueFigures]:
        """The figures of all queues of the virtual host, by name.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        columns = "name,messages,messages_unacknowledged"
        found = self._get(f"queues/{self._virtual_host}", columns=columns)
        return {
            str(queue["name"]): QueueFigures(
                int(queue.get("messages", 0)), int(queue.get("messages_unacknowledged", 0))
            )
            for queue in found
        }

    def queues(self) -> set[str]:
        """Names of all queues of the virtual host.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        return set(self.figures())

    def problem(self) -> str | None:
        """Say why the management API cannot be used; None if it can."""
        try:
            self.figures()
        except (BrokerUnavailable, BrokerRefused) as error:
            return error.message
        return None

    def degraded(self) -> str | None:
        """Say what works without the management API while it cannot be used; None if it can."""
        if (problem := self.problem()) is None:
            return None
        return (
            f"{problem}; without it messages in flight are not counted, and only queues and "
            "workers that report to STATE_URL are listed"
        )

    def workers(self) -> list[WorkerInfo]:
        """List the worker processes, ``host:pid``, with the queues that they consume."""
        connections = self._get(
            f"vhosts/{self._virtual_host}/connections", columns="name,client_properties"
        )
        ours = {
            connection["name"]: str(connection["client_properties"].get("connection_name"))
            for connection in connections
            if connection.get("client_properties", {}).get("product") == PRODUCT
        }
        queues: defaultdict[str, set[str]] = defaultdict(set)
        for consumer in self._get(f"consumers/{self._virtual_host}"):
            queue = consumer["queue"]["name"]
            connection = consumer["channel_details"].get("connection_name")
            if connection in ours and not queue.startswith(OWN_PREFIX):
                queues[ours[connection]].add(queue)
        return [
            WorkerInfo(process, None, tuple(sorted(names)), name=process)
            for process, names in sorted(queues.items())
        ]

    def _get(self, path: str, **query: str) -> Any:
        """Ask, unless the same was asked within a second; fail at once for some seconds after a
        failure, so that a page with several questions waits once."""
        until, answer = self._answers.get(path, (0.0, None))
        now = time.monotonic()
        if now < until:
            return answer
        if now < self._fails_until:
            raise type(self._failure)(self._failure.message)
        try:
            answer = self._ask(path, query)
        except (BrokerUnavailable, BrokerRefused) as error:
            self._failure, self._fails_until = error, time.monotonic() + _FAILS_SECONDS
            raise
        self._answers[path] = time.monotonic() + _KEEP_SECONDS, answer
        return answer

    def _ask(self, path: str, query: dict[str, str]) -> Any:
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
                f"{type(error).__name__}; check RABBITMQ_API_URL, and that the plugin "
                "rabbitmq_management is enabled"
            ) from None
        if answer.status_code != requests.codes.ok:
            raise BrokerRefused(
                f"expected RabbitMQ's management API at {self.where} to answer 200, got "
                f"{answer.status_code}; check RABBITMQ_API_URL, and that its user has the tag "
                "'monitoring' and access to the virtual host"
            )
        return answer.json()
