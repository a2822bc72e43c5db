"""Closes old database connections in workers, as Django does around each request."""

from __future__ import annotations

from typing import Any

import dramatiq
from django.db import close_old_connections, connections
from dramatiq.middleware import Middleware


class DatabaseConnections(Middleware):
    """Closes connections that are broken or older than CONN_MAX_AGE, around each message.

    Otherwise a worker would keep its first connection forever, and fail after a restart of the
    database.
    """

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        close_old_connections()

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: Any,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        close_old_connections()

    def after_skip_message(self, broker: dramatiq.Broker, message: Any) -> None:
        close_old_connections()

    def before_worker_thread_shutdown(self, broker: dramatiq.Broker, thread: Any) -> None:
        connections.close_all()
