"""Middleware of modules that are imported after the broker was made.

``dramatiq formrelay.worker myapp.actors`` makes the broker, calls ``after_process_boot``, and only
then imports ``myapp.actors``. Dramatiq's Prometheus makes its metrics in that hook.
"""

from __future__ import annotations

import dramatiq
from dramatiq.middleware import Middleware


class LateMiddleware(Middleware):
    """Calls ``after_process_boot`` of the middleware that was added after that signal."""

    def __init__(self) -> None:
        self._told: list[Middleware] | None = None

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        self._told = list(broker.middleware)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._told is None:  # not a process of Dramatiq's command line
            return
        for middleware in broker.middleware:
            if not any(middleware is told for told in self._told):
                middleware.after_process_boot(broker)
