"""RabbitMQ's management API, where it is configured: it tells what AMQP does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests

from ..errors import BrokerRefused, BrokerUnavailable
from .connection import PRODUCT

#: What we declare for ourselves is nobody's work.
_OWN = "formrelay."


@dataclass(frozen=True, slots=True)
class Consumer:
    """A worker process that consumes a queue.

    Attributes:
        connection: its name on the server.
        process: ``host:pid``.
    """

    queue: str
    connection: str
    process: str


class Management:
    """See the module. What it says is up to five seconds old.

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

    def consumers(self) -> Iterator[Consumer]:
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
                yield Consumer(queue, connection, ours[connection])

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
