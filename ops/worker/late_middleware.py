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
        for middleware in list(broker.middleware):
            if any(middleware is told for told in self._told):
                continue
            self._told.append(middleware)  # first: a worker may be started again in this process
            try:
                middleware.after_process_boot(broker)
            except Exception:
                # As Dramatiq does, so that the others are told.
                broker.logger.critical(
                    "Unexpected failure in after_process_boot of %r.", middleware, exc_info=True
                )
