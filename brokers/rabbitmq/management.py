"""The client of RabbitMQ's management API."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests

from ..errors import BrokerRefused, BrokerUnavailable
from ..inspection import WorkerInfo
from .servers import PRODUCT
from .topology import OWN_PREFIX


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

    def in_flight(self, queue: str) -> int:
        """Number of messages of a queue in flight, including prefetched messages.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        found = self._get(f"queues/{self._virtual_host}/{quote(queue, safe='')}")
        return int(found.get("messages_unacknowledged", 0))

    def in_flight_of_all(self) -> dict[str, int]:
        """Number of messages in flight, including prefetched messages, by queue.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        found = self._get(f"queues/{self._virtual_host}", columns="name,messages_unacknowledged")
        return {str(one["name"]): int(one.get("messages_unacknowledged", 0)) for one in found}

    def queues(self) -> set[str]:
        """Names of all queues of the virtual host.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        found = self._get(f"queues/{self._virtual_host}", columns="name")
        return {str(queue["name"]) for queue in found}

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
