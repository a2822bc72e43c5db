"""Dramatiq's middleware for ``max_age`` and ``time_limit``, adapted to tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq.middleware import AgeLimit, Middleware, SkipMessage, TimeLimit

from ..core.clock import Clock, to_millis
from ..core.periodic import Periodic

#: How often time limits are checked.
_CHECK = timedelta(milliseconds=100)


class MovableAgeLimit(AgeLimit):
    """Compares ages with the broker's clock, so that a test can let messages expire."""

    def __init__(self, clock: Clock, max_age: int | None) -> None:
        super().__init__(max_age=max_age)
        self._clock = clock

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        actor = broker.get_actor(message.actor_name)
        max_age = message.options.get("max_age") or actor.options.get("max_age", self.max_age)
        age = to_millis(self._clock.time()) - message.message_timestamp
        if max_age and age >= max_age:
            message.fail()
            raise SkipMessage("Message age limit exceeded")


class StoppableTimeLimit(TimeLimit):
    """Checks time limits while a worker runs, in a thread that ends with the worker.

    Dramatiq's own thread is started only by its command line, and never ends.
    """

    def __init__(self, time_limit: float) -> None:
        super().__init__(time_limit=time_limit)
        self._workers = 0
        # A manager for gevent has timers of its own.
        check = getattr(self.manager, "_handle_deadlines", lambda: None)
        self._checking = Periodic("time-limits", _CHECK, check)

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """Start nothing: the worker does."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._workers += 1
        self._checking.start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._workers -= 1
        if self._workers <= 0:
            self._checking.stop()


def with_limits(middleware: list[Middleware], clock: Clock) -> list[Middleware]:
    """Replace Dramatiq's AgeLimit and TimeLimit in a list; subclasses of them stay."""

    def replaced(one: Any) -> Middleware:
        if type(one) is AgeLimit:
            return MovableAgeLimit(clock, one.max_age)
        if type(one) is TimeLimit:
            return StoppableTimeLimit(one.time_limit)
        return one  # type: ignore[no-any-return]

    return [replaced(one) for one in middleware]
