"""Calls the hooks of middleware: which middleware has which hook, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

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
from ..middleware import (
    OF_THE_THREAD,
    Delivery,
    HistoryRecorder,
    Idempotency,
    RetryExhausted,
    Throttling,
    default_middleware,
)
from ..middleware.outcomes import Outcomes, is_deferred
from .async_runner import AsyncRunner
from .contract import BrokerContract
from .draining import return_unstarted
from .follow_ups import SENDERS, call_sending_hooks
from .middleware_list import MiddlewareList

#: Middleware of Dramatiq that a formrelay broker has already, and that would act twice if there
#: were two of its class.
_ONCE = (AgeLimit, TimeLimit, ShutdownNotifications, Callbacks, Pipelines, CurrentMessage)
#: Options of a message or its actor without which a middleware does nothing in an attempt. Its
#: hooks are then not called: half of all calls of hooks of a small message.
_BY_OPTION: dict[type[Middleware], tuple[str, ...]] = {
    AgeLimit: ("max_age",),
    ShutdownNotifications: ("notify_shutdown",),
    Callbacks: ("on_success", "on_failure"),
    Pipelines: ("pipe_target",),
    RetryExhausted: ("on_retry_exhausted",),
    Throttling: ("throttle",),
    Idempotency: ("idempotency",),
}
#: Modules whose middleware runs no code of a program in its hooks of an attempt.
_KNOWN_MODULES = ("formrelay.middleware.", "formrelay.ops.", "formrelay.djangoapp.connections")
_HOOKS_OF_ATTEMPT = ("before_process_message", "after_process_message")
_HOOK_OPTIONS = tuple(name for names in _BY_OPTION.values() for name in names)


class _Listeners(NamedTuple):
    """Middleware that implements a hook.

    Attributes:
        in_order: for hooks before an event.
        in_reverse: the same middleware in the order of hooks after an event.
        may_send: whether a hook may send messages.
    """

    in_order: list[Middleware]
    in_reverse: list[Middleware]
    may_send: bool


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
        #: Listeners by hook, whether the attempt is async, number of attributes of users'
        #: middleware (hooks may be set on objects), and options of the attempt.
        self._hooks: dict[tuple[str, bool, int, tuple[str, ...] | None], _Listeners] = {}
        self._changing: list[dict[str, Any]] = [
            vars(each) for each in self._middleware if _is_foreign(each)
        ]
        #: Options that a middleware of ``_BY_OPTION`` may have for all messages: the name, and the
        #: attributes with its value.
        self._defaults: list[tuple[str, dict[str, Any]]] = [
            (name, vars(each))
            for each in self._middleware
            for name in _BY_OPTION.get(type(each), ())
            if name in vars(each)
        ]
        #: Whether hooks are skipped by ``_BY_OPTION``. Hooks of a program may set options that the
        #: hooks after them read.
        self._skips_hooks = all(map(_is_known, filter(_acts_in_attempt, self._middleware)))
        self._deciding = [each for each in self._middleware if isinstance(each, Outcomes)]
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
        hook = f"before_{signal}"
        for middleware in self._listeners(hook, args).in_order:
            try:
                getattr(middleware, hook)(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.log_hook_failure(hook, middleware)
        if signal == "worker_shutdown":
            return_unstarted(args[0])

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "process_message" and isinstance(args[0], Delivery):
            self._end_attempt(args[0], kwargs)
            return
        hook = f"after_{signal}"
        listeners = self._listeners(hook, args).in_reverse
        if signal == "skip_message" and isinstance(args[0], Delivery) and is_deferred(args[0]):
            # Results would store None as the result of a job that is not over.
            listeners = [one for one in listeners if not isinstance(one, Results)]
        self._call_after(hook, listeners, *args, **kwargs)

    def _call_after(
        self, hook: str, listeners: list[Middleware], *args: Any, **kwargs: Any
    ) -> None:
        for middleware in listeners:
            try:
                getattr(middleware, hook)(self, *args, **kwargs)
            except Exception:
                self.log_hook_failure(hook, middleware)

    def _end_attempt(self, delivery: Delivery, ended: dict[str, Any]) -> None:
        """Decide the outcome of an attempt, and call the hooks after it.

        An attempt that was deferred has not failed: to the hooks it is a skipped message.

        Args:
            ended: the keyword argument of ``after_process_message``, ``result=`` or ``exception=``.
        """
        for outcomes in self._deciding:
            outcomes.after_process_message(self, delivery, **ended)
        if is_deferred(delivery):
            self.emit_after("skip_message", delivery)
            return
        listeners = self._listeners("after_process_message", (delivery,))
        if listeners.may_send:
            call_sending_hooks(self, delivery, listeners.in_reverse, ended)
        else:
            self._call_after("after_process_message", listeners.in_reverse, delivery, **ended)

    def _listeners(self, hook: str, args: Sequence[Any]) -> _Listeners:
        """Return the middleware that implements ``hook`` and needs to be called.

        Dramatiq calls every hook of every middleware. Some forty empty calls took a third of the
        time of a small message.
        """
        is_async, options = False, None
        if args and isinstance(args[0], Delivery):
            is_async = args[0].is_async
            if hook in _HOOKS_OF_ATTEMPT and self._skips_hooks:
                options = self._note_options(args[0])
        # Hooks may be set on objects.
        size = sum(map(len, self._changing)) if self._changing else 0
        hooks = self._hooks  # another thread may replace it
        found = hooks.get((hook, is_async, size, options))
        if found is None:
            in_order = [
                middleware
                for middleware in self._middleware
                if _implements(middleware, hook)
                and not (is_async and isinstance(middleware, OF_THE_THREAD))
                and not (hook == "after_process_message" and isinstance(middleware, Outcomes))
                and _acts_by(middleware, options)
            ]
            found = hooks[hook, is_async, size, options] = _Listeners(
                in_order, in_order[::-1], any(map(_may_send, in_order))
            )
        return found

    def _note_options(self, delivery: Delivery) -> tuple[str, ...] | None:
        """Note and return which of ``_HOOK_OPTIONS`` are set for a delivery, or were at its start.

        Returns:
            None if its actor is not declared: a hook may declare it.
        """
        actor = self.actors.get(delivery.actor_name)
        if actor is None:
            return None
        found = tuple(filter(actor.options.get, _HOOK_OPTIONS))
        if delivery.options:
            found += tuple(filter(delivery.options.get, _HOOK_OPTIONS))
        for name, values in self._defaults:
            if values.get(name):
                found += (name,)
        if found != delivery.hook_options:
            # Keep the options that were set before: a hook that began something must also end it.
            delivery.hook_options += found
        return delivery.hook_options


def _implements(middleware: Middleware, hook: str) -> bool:
    inherited = getattr(Middleware, hook, None)
    is_set = hook in getattr(middleware, "__dict__", ())
    return is_set or getattr(type(middleware), hook, None) is not inherited


def _acts_in_attempt(middleware: Middleware) -> bool:
    return any(_implements(middleware, hook) for hook in _HOOKS_OF_ATTEMPT)


def _acts_by(middleware: Middleware, options: tuple[str, ...] | None) -> bool:
    needed = _BY_OPTION.get(type(middleware))
    return options is None or needed is None or not set(needed).isdisjoint(options)


def _is_foreign(middleware: Middleware) -> bool:
    kind = type(middleware)
    is_default = kind in _ONCE or kind.__module__.startswith("formrelay.")
    return hasattr(middleware, "__dict__") and not is_default


def _may_send(middleware: Middleware) -> bool:
    return isinstance(middleware, SENDERS) or not _is_known(middleware)


def _is_known(middleware: Middleware) -> bool:
    """Whether its hooks of an attempt run no code of a program, which may set options or send."""
    kind = type(middleware)
    return kind in _ONCE or kind.__module__.startswith(_KNOWN_MODULES)
