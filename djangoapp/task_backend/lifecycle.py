"""Signals and stored results of tasks, in the hooks around their messages."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import dramatiq
from django.utils import timezone
from dramatiq.middleware import Middleware, SkipMessage

from ...core.failure import worker_name
from ...core.outcomes import Dead, Defer, Done
from ...core.tracebacks import traceback_text
from ...middleware.delivery import RETRIES, Delivery
from . import api
from .message import path_of, result_of, set_fields
from .results import TaskResults, add_failure
from .running import NotJsonResult

#: The running task of this attempt. Each attempt has its own context.
_running: ContextVar[Any] = ContextVar("formrelay_task_result", default=None)
#: Maximum length of a stored traceback; the end is kept.
_MAX_TRACEBACK = 20_000


class TaskLifecycle(Middleware):
    """Stores the results of tasks, and sends Django's signals.

    Must stand before :class:`formrelay.middleware.outcomes.Outcomes` in the list, so that its
    hooks after an attempt know the outcome.

    Attributes:
        tasks: the declared tasks, by the names of their actors.
        keep: how long the results of each task are kept, by the names of their actors.
        results: None if no Redis keeps results.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}
        self.keep: dict[str, timedelta | None] = {}
        self.results: TaskResults | None = None

    # -- called by the actor of a task ---------------------------------------------------

    def start(self, message: Any) -> Any:
        """Return the result of a task whose attempt starts now; store it, and send the signal."""
        result = result_of(message, self.tasks[message.actor_name])
        is_kept = self.results is not None and self.keep[message.actor_name] is not None
        earlier = self.results.earlier(result.id) if self.results and is_kept else None
        now = timezone.now()
        set_fields(
            result,
            status=api.TaskResultStatus.RUNNING,
            started_at=(earlier and earlier.started_at) or now,
            last_attempted_at=now,
            errors=earlier.errors if earlier else [],
            worker_ids=[*_earlier_workers(message, earlier), worker_name()],
        )
        _running.set(result)
        self._store(message, result)
        api.task_started.send_robust(sender=_sender(result), task_result=result)
        return result

    # -- hooks ---------------------------------------------------------------------------

    def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
        is_retry = RETRIES in message.options
        if message.actor_name in self.tasks and not is_retry:
            self._store(message, result_of(message, self.tasks[message.actor_name]))

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if message.actor_name in self.tasks and isinstance(message, Delivery):
            self._end(message, exception)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if message.actor_name not in self.tasks or not isinstance(message, Delivery):
            return
        # Done without running: a middleware of the host program skipped the task.
        is_skipped = isinstance(message.outcome, Done)
        self._end(message, SkipMessage("a middleware skipped the task") if is_skipped else None)

    def _end(self, message: Delivery, error: BaseException | None) -> None:
        result = _running.get()
        if result is None or result.id != message.message_id:  # its actor was not called
            if isinstance(message.outcome, Defer):
                return
            result = result_of(message, self.tasks[message.actor_name])
        status, now = api.TaskResultStatus, timezone.now()
        if error is not None and not isinstance(message.outcome, Defer):
            result.errors.append(_task_error(error))
        match message.outcome:
            case Done() if error is None:
                set_fields(result, status=status.SUCCESSFUL, finished_at=now)
            case Dead(failure=failure) if error is None:
                add_failure(result, failure)
            case Done() | Dead():
                set_fields(result, status=status.FAILED, finished_at=now)
            case _:
                set_fields(result, status=status.READY)
        self._store(message, result)
        if result.is_finished:
            api.task_finished.send_robust(sender=_sender(result), task_result=result)

    def _store(self, message: Any, result: Any) -> None:
        keep = self.keep[message.actor_name]
        if self.results is not None and keep is not None:
            self.results.put(result, message.actor_name, keep)


def _earlier_workers(message: Delivery, earlier: Any) -> list[str]:
    """The workers of the earlier attempts; without a stored result, that of the last failure."""
    if earlier is not None:
        return list(earlier.worker_ids)
    failure = message.options.get("failure")
    worker = failure.get("worker") if isinstance(failure, dict) else None
    return [str(worker or "unknown")] * (message.attempt - 1)


def _task_error(error: BaseException) -> Any:
    text = traceback_text(error)[-_MAX_TRACEBACK:]
    # As with Django's own backends, the error of a return value that is not JSON is a TypeError.
    if isinstance(error, NotJsonResult) and error.__cause__ is not None:
        error = error.__cause__
    return api.TaskError(exception_class_path=path_of(type(error)), traceback=text)


def _sender(result: Any) -> type[Any]:
    return type(result.task.get_backend())
