"""Calls the hooks of middleware: which middleware has which hook, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    CurrentMessage,
    Middleware,
    MiddlewareError,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.results import Results

from ..core.clock import SYSTEM_CLOCK, Clock
from ..middleware import OF_THE_THREAD, Delivery, HistoryRecorder, default_middleware
from ..middleware.outcomes import Outcomes, is_deferred
from .async_runner import AsyncRunner
from .contract import BrokerContract
from .draining import return_unstarted
from .follow_ups import end_attempt
from .middleware_list import MiddlewareList

#: Middleware of Dramatiq that a formrelay broker has already, and that would act twice if there
#: were two of its class.
_ONCE = (AgeLimit, TimeLimit, ShutdownNotifications, Callbacks, Pipelines, CurrentMessage)


class SignallingBroker(BrokerContract):
    """A broker that emits Dramatiq's signals to its middleware.

    Args:
        middleware: added to the default middleware, as by :meth:`add_middleware`.
    """

    def __init__(
        self, middleware: Iterable[Middleware] | None = None, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.is_stopping = self.is_draining = False
        self.async_runner = AsyncRunner(self)
        self.outcomes = Outcomes(clock=clock)
        self.history_recorder = HistoryRecorder(clock=clock)
        super().__init__(middleware=self._default_middleware(clock))
        for added in middleware or ():
            self.add_middleware(added)

    def add_middleware(self, middleware: Middleware, **position: Any) -> None:
        """Add a middleware; by default, at the end.

        Dramatiq's default middleware is there already: another object of such a class takes the
        place of the first. Of Dramatiq's Retries only the values are taken.

        Args:
            position: ``before=`` or ``after=`` the class of another middleware.

        Raises:
            ValueError: the broker has no middleware of that class.
            InvalidPolicy: a value of Retries is wrong.
        """
        if isinstance(middleware, Retries) and middleware is not self.outcomes:
            self.outcomes.adopt(middleware)
            return
        index = self._remove_replaced(middleware)
        super().add_middleware(middleware, **position)
        if index is not None and not position:
            self.middleware.insert(index, self.middleware.pop())

    @property
    def middleware(self) -> list[Middleware]:
        """The middleware, in order. Programs may change the list in place."""
        return self._middleware

    @middleware.setter
    def middleware(self, middleware: list[Middleware]) -> None:
        self._middleware = MiddlewareList(middleware, self._note_middleware)
        self._note_middleware()

    def _note_middleware(self) -> None:
        """Find the hooks again, after each change of the middleware."""
        #: The middleware with each hook, for threads and for async attempts, while objects have as
        #: many attributes as now.
        self._hooks: dict[tuple[str, bool, int], list[Middleware]] = {}
        self._changing: list[dict[str, Any]] = [
            vars(each) for each in self._middleware if _is_foreign(each)
        ]
        self.middleware_version = object()

    def _default_middleware(self, clock: Clock) -> list[Middleware]:
        return default_middleware(self.outcomes, self.history_recorder, clock)

    def remove_middleware(self, is_meant: Callable[[Any], bool]) -> None:
        """Remove the middleware for which ``is_meant`` is true."""
        self.middleware = [one for one in self.middleware if not is_meant(one)]

    def _remove_replaced(self, middleware: Middleware) -> int | None:
        """Remove the middleware that another one replaces; return its index, None if none is."""
        kind = next((kind for kind in _ONCE if isinstance(middleware, kind)), None)
        if kind is None:
            return None
        for index, each in enumerate(self.middleware):
            if isinstance(each, kind):
                del self.middleware[index]
                return index
        return None

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal in ("worker_boot", "worker_shutdown"):
            self.is_stopping = self.is_draining = signal == "worker_shutdown"
        if signal == "consumer_thread_shutdown" and args[0].consumer is not None:
            args[0].consumer.finish()
        for middleware in self._listeners(f"before_{signal}", args):
            try:
                getattr(middleware, f"before_{signal}")(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.log_hook_failure(f"before_{signal}", middleware)
        if signal == "worker_shutdown":
            return_unstarted(args[0])

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "process_message" and isinstance(args[0], Delivery):
            end_attempt(self, args[0], lambda hook: self._listeners(hook, args)[::-1], kwargs)
            return
        listeners = self._listeners(f"after_{signal}", args)[::-1]
        if signal == "skip_message" and isinstance(args[0], Delivery) and is_deferred(args[0]):
            # Results would store None as the result of a job that is not over.
            listeners = [one for one in listeners if not isinstance(one, Results)]
        for middleware in listeners:
            try:
                getattr(middleware, f"after_{signal}")(self, *args, **kwargs)
            except Exception:
                self.log_hook_failure(f"after_{signal}", middleware)

    def _listeners(self, hook: str, args: Sequence[Any]) -> list[Middleware]:
        """Return the middleware that implements ``hook``, in order.

        Dramatiq calls every hook of every middleware. Some forty empty calls took a third of the
        time of a small message.
        """
        is_async = bool(args) and isinstance(args[0], Delivery) and args[0].is_async
        # Hooks may be set on objects.
        size = sum(map(len, self._changing)) if self._changing else 0
        hooks = self._hooks  # another thread may replace it
        found = hooks.get((hook, is_async, size))
        if found is None:
            found = hooks[hook, is_async, size] = [
                middleware
                for middleware in self._middleware
                if _implements(middleware, hook)
                and not (is_async and isinstance(middleware, OF_THE_THREAD))
            ]
        return found


def _implements(middleware: Middleware, hook: str) -> bool:
    inherited = getattr(Middleware, hook, None)
    is_set = hook in getattr(middleware, "__dict__", ())
    return is_set or getattr(type(middleware), hook, None) is not inherited


def _is_foreign(middleware: Middleware) -> bool:
    kind = type(middleware)
    is_default = kind in _ONCE or kind.__module__.startswith("formrelay.")
    return hasattr(middleware, "__dict__") and not is_default
