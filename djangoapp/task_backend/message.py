"""The message of a task, and the task result that a message stands for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from dramatiq import Message

from ...core.errors import InvalidJob
from ...core.printable import printable
from . import api

#: The message option with the priority and ``run_after`` of a task.
TASK = "task"
_MIDDLE, _LEVELS = 4, 5
_QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")


class NotJson(InvalidJob, TypeError):
    """An argument of a task is not JSON."""


def is_queue_name(name: str) -> bool:
    """Whether the brokers accept a queue name."""
    return _QUEUE_NAME.fullmatch(name) is not None


def broker_priority(priority: int) -> int:
    """Map a task's priority (-100 to 100) to a message's (0 to 9).

    0 becomes 4, a negative priority 0 to 3, and a positive priority 5 to 9.
    """
    if priority > 0:
        return _MIDDLE + 1 + (priority - 1) * _LEVELS // 100
    return _MIDDLE - math.ceil(-priority * _MIDDLE / 100)


def new_result(task: Any, id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Make the result of a task that is not sent yet.

    Raises:
        NotJson: names the argument and its type.
    """
    try:
        return api.TaskResult(
            task=task,
            id=id,
            status=api.TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=task.backend,
            errors=[],
            worker_ids=[],
        )
    except (TypeError, ValueError) as error:  # of normalize_json: names types, no values
        raise NotJson(
            f"{task.module_path}: expected arguments that JSON can hold: {error}"
        ) from None


def make_message(result: Any, actor_name: str, *, has_priorities: bool) -> Message[Any]:
    """Make the message of a task.

    Args:
        result: its result, not sent yet.
        has_priorities: whether the broker orders messages by priority.
    """
    task = result.task
    options: dict[str, Any] = {}
    about: dict[str, Any] = {}
    if task.priority:
        about["priority"] = int(task.priority)
    if task.run_after is not None:
        about["run_after"] = task.run_after.isoformat()
        # Rounded up: not before that time.
        options["eta"] = math.ceil(due_at(task.run_after) * 1000)
    if about:
        options[TASK] = about
    if has_priorities:
        options["broker_priority"] = broker_priority(int(task.priority))
    return Message(
        queue_name=task.queue_name,
        actor_name=actor_name,
        args=tuple(result.args),
        kwargs=result.kwargs,
        options=options,
        message_id=result.id,
    )


def result_of(message: Any, declared: Any) -> Any:
    """Make the result of a task that is sent, without the results of its earlier attempts.

    Args:
        message: a Dramatiq message, or a delivery.
        declared: the task that its actor runs.
    """
    task = sent_task(declared, message.queue_name, message.options.get(TASK))
    result = new_result(task, message.message_id, message.args, message.kwargs)
    set_fields(result, enqueued_at=from_millis(message.message_timestamp))
    return result


def sent_task(declared: Any, queue_name: str, about: Any) -> Any:
    """The task as it was sent: with the queue, priority and ``run_after`` of its message."""
    changes: dict[str, Any] = {}
    if queue_name != declared.queue_name:
        changes["queue_name"] = queue_name
    if isinstance(about, dict):
        if "priority" in about:
            changes["priority"] = about["priority"]
        if isinstance(about.get("run_after"), str):
            changes["run_after"] = datetime.fromisoformat(about["run_after"])
    try:
        return declared.using(**changes) if changes else declared
    except Exception:  # the settings no longer allow it: it was valid when it was sent
        return declared


def set_fields(result: Any, **fields: Any) -> None:
    """Set fields of a task result, which is a frozen dataclass."""
    for name, value in fields.items():
        object.__setattr__(result, name, value)


def from_millis(millis: int) -> datetime:
    """Convert unix milliseconds to a datetime, which is aware if ``USE_TZ`` is set."""
    at = datetime.fromtimestamp(millis / 1000, UTC)
    return at if settings.USE_TZ else timezone.make_naive(at)


def due_at(run_after: datetime) -> float:
    """Convert a datetime, aware or in Django's time zone, to unix seconds."""
    return (
        run_after if timezone.is_aware(run_after) else timezone.make_aware(run_after)
    ).timestamp()


def path_of(error: type[BaseException]) -> str:
    """The path of an exception class, for a ``TaskError``."""
    return printable(f"{error.__module__}.{error.__qualname__}")
