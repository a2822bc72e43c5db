"""Publishing with confirms, one connection a thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pika

from ..errors import BrokerUnavailable
from .connection import address, translated


class Publisher:
    """Publishes, and returns when RabbitMQ has confirmed.

    pika's connections belong to one thread each, so every thread that
    publishes gets its own; one inherited through a fork is left alone.

    Args:
        prepare: declares on a new channel what must be there.
    """

    def __init__(self, parameters: pika.URLParameters, prepare: Callable[[Any], None]) -> None:
        self._parameters = parameters
        self._where = address(parameters)
        self._prepare = prepare
        self._local = threading.local()
        self._all: list[tuple[int, pika.BlockingConnection]] = []

    def channel(self) -> Any:
        """This thread's channel, with confirms on.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        channel = getattr(self._local, "channel", None)
        if channel is not None and channel.is_open and self._local.pid == os.getpid():
            return channel
        with translated(self._where):
            connection = pika.BlockingConnection(self._parameters)
            channel = connection.channel()
            channel.confirm_delivery()
            self._prepare(channel)
        self._local.channel, self._local.pid = channel, os.getpid()
        self._all.append((os.getpid(), connection))
        return channel

    def publish(self, exchange: str, routing_key: str, body: bytes, properties: Any) -> None:
        """Publish one message.

        A connection that was lost while it was idle is found out only now; then
        a second one is tried. A message whose confirm was lost may so be there
        twice, which at-least-once allows.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        try:
            self._publish(exchange, routing_key, body, properties)
        except BrokerUnavailable:
            self.drop()
            self._publish(exchange, routing_key, body, properties)

    def _publish(self, exchange: str, routing_key: str, body: bytes, properties: Any) -> None:
        channel = self.channel()
        with translated(self._where):
            channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)

    def drop(self) -> None:
        """Give this thread's connection up."""
        channel = getattr(self._local, "channel", None)
        self._local.channel = None
        if channel is not None and self._local.pid == os.getpid():
            _close(channel.connection)

    def close(self) -> None:
        """Close the connections of every thread of this process."""
        for pid, connection in self._all:
            if pid == os.getpid():
                _close(connection)
        self._all.clear()


def _close(connection: pika.BlockingConnection) -> None:
    # It is given up; that it is already broken is no news.
    with contextlib.suppress(Exception):
        connection.close()
