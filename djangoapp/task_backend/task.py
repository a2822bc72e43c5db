"""The class of tasks, with Dramatiq's options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ...core.retry import RetryPolicy
from . import api


@dataclass(frozen=True, slots=True, kw_only=True)
class FormrelayTask(api.Task):
    """A task with options: ``@task(max_retries=5, time_limit=60_000)``.

    The options have the names, units and meanings that they have on a Dramatiq actor
    (docs/retries.md). None: the value in ``OPTIONS`` of the backend, otherwise formrelay's default.

    Attributes:
        max_retries: maximum number of retries after the first attempt.
        min_backoff: milliseconds before the first retry.
        max_backoff: maximum milliseconds that the delay grows to.
        retry_when: whether to retry, from the number of retries and the error.
        throws: exceptions that are never retried.
        policy: a retry policy instead of the options above.
        time_limit: milliseconds after which an attempt is interrupted.
        max_age: milliseconds after which a task that has not started is dead-lettered.
        notify_shutdown: whether a worker that stops interrupts the task at once.
    """

    max_retries: int | None = None
    min_backoff: int | None = None
    max_backoff: int | None = None
    retry_when: Callable[[int, BaseException], bool] | None = None
    throws: type[BaseException] | tuple[type[BaseException], ...] | None = None
    policy: RetryPolicy | None = None
    time_limit: int | None = None
    max_age: int | None = None
    notify_shutdown: bool | None = None


#: The names of the options.
ACTOR_OPTIONS = tuple(
    field.name
    for field in fields(FormrelayTask)
    if field.name not in {each.name for each in fields(api.Task)}
)


def options_of(task: Any) -> dict[str, Any]:
    """The options that a task sets itself; none for a task of another backend's class."""
    found = {name: getattr(task, name, None) for name in ACTOR_OPTIONS}
    return {name: value for name, value in found.items() if value is not None}
