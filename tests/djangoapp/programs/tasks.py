"""Tasks that are enqueued in the project."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from chores import elsewhere, tasks
from chores.api import InvalidTask, TaskResultDoesNotExist, default_task_backend, task
from django.db import transaction
from django.utils import timezone
from dramatiq import Message

from formrelay.brokers import BrokerUnavailable, get_broker

ALL = {name: value for name, value in vars(tasks).items() if hasattr(value, "enqueue")}
ALL["far"] = elsewhere.far


def send(name: str, *args: Any) -> str:
    """The id of a task that is sent."""
    return str(ALL[name].enqueue(*args).id)


def result(id: str) -> dict[str, Any]:
    """What is stored of a task."""
    try:
        found = default_task_backend.get_result(id)
    except TaskResultDoesNotExist:
        return {}
    return shown(found)


def shown(found: Any) -> dict[str, Any]:
    return {
        "status": str(found.status.value),
        "path": found.task.module_path,
        "args": found.args,
        "value": found._return_value,
        "attempts": found.attempts,
        "errors": [error.exception_class.__name__ for error in found.errors],
        "is_finished": found.is_finished,
        "started": found.started_at and found.started_at.isoformat(),
        "times": [
            found.enqueued_at is not None,
            found.started_at is not None,
            found.finished_at is not None,
        ],
    }


class RolledBack(Exception):
    """Rolls a transaction back."""


def waiting(queue: str = "default") -> int:
    return get_broker().counts(queue).waiting


def in_transactions() -> dict[str, Any]:
    """What is sent when, and what a task result says of it."""
    found: dict[str, Any] = {}
    with transaction.atomic():
        first = tasks.note.enqueue("first")
        second = tasks.note.enqueue("second")
        found["inside"] = [first.enqueued_at, waiting(), result(first.id)]
    found["after"] = [second.enqueued_at is not None, waiting(), result(second.id)["status"]]
    try:
        with transaction.atomic():
            lost = tasks.note.enqueue("lost")
            raise RolledBack
    except RolledBack:
        found["rolled back"] = [lost.enqueued_at, waiting(), result(lost.id)]
    with transaction.atomic():
        at_once = tasks.note.using(backend="at_once").enqueue("at once")
        found["at once"] = [at_once.enqueued_at is not None, waiting()]
    return found


def refused() -> dict[str, list[str]]:
    """The error of each wrong call."""

    def error(call: Callable[[], Any]) -> list[str]:
        try:
            call()
        except Exception as raised:
            return [type(raised).__name__, str(raised)]
        return ["nothing", ""]

    def later(days: float) -> Any:
        return timezone.now() + timedelta(days=days)

    def local(text: str) -> None:
        raise AssertionError(text)

    note = tasks.note
    return {
        "unknown queue": error(lambda: note.using(queue_name="other")),
        "queue name": error(lambda: note.using(queue_name="a b", backend="any_queue")),
        "own queue": error(
            lambda: note.using(queue_name="webhooks", backend="any_queue").enqueue("x")
        ),
        "priority": error(lambda: note.using(priority=101)),
        "half a priority": error(lambda: note.using(priority=1.5)),
        "naive": error(lambda: note.using(run_after=datetime(2030, 1, 1))),
        "far off": error(lambda: note.using(run_after=later(31)).enqueue("x")),
        "local": error(lambda: task(local)),
        "other name": error(lambda: elsewhere.shown.enqueue("x")),
        "program": error(lambda: program_task.enqueue("x")),
        "time": error(lambda: note.enqueue(datetime(2030, 1, 1))),
        "NaN": error(lambda: note.enqueue(float("nan"))),
        "key": error(lambda: note.enqueue({1: 2})),
        "large": error(lambda: note.enqueue("x" * 2_000_000)),
        "option": error(lambda: task(max_tries=3)(note.func)),
        "policy": error(lambda: note_with("max_retries", "3").enqueue("x")),
        "nothing was sent": [str(waiting())],
    }


def note_with(name: str, value: Any) -> Any:
    """The task `far` with a wrong option, as if it were declared so."""
    wrong = replace(elsewhere.far, **{name: value})
    elsewhere.far = wrong
    return wrong


def _in_program(text: str) -> None:
    raise AssertionError(text)


_in_program.__module__ = "__main__"
program_task = task(_in_program)


def in_order_of_priority() -> list[str]:
    """Send tasks of every kind of priority; the order in which they should run."""
    for level in (0, -100, 50, -1, 1, 100):
        tasks.note.using(priority=level).enqueue(f"p{level}")
    return ["p100", "p50", "p1", "p0", "p-1", "p-100"]


def priority_error() -> list[Any]:
    try:
        tasks.note.using(priority=1)
    except InvalidTask as error:
        return [default_task_backend.supports_priority, str(error)]
    return [default_task_backend.supports_priority, ""]


def later(seconds: float) -> str:
    at = timezone.now() + timedelta(seconds=seconds)
    return str(tasks.note.using(run_after=at).enqueue(at.isoformat()).id)


def from_async() -> str:
    return str(asyncio.run(tasks.note.aenqueue("from async")).id)


def result_error(id: str) -> list[Any]:
    try:
        default_task_backend.get_result(id)
    except NotImplementedError as error:
        return [default_task_backend.supports_get_result, str(error)]
    except BrokerUnavailable as error:
        return [default_task_backend.supports_get_result, f"BrokerUnavailable: {error}"]
    return [default_task_backend.supports_get_result, ""]


def send_other_functions() -> list[str]:
    """Messages whose actors are functions that are no tasks."""
    broker = get_broker()
    broker.declare_queue("default")
    names = ["chores.tasks.write", "chores.elsewhere.shown", "os.mkdir", "no.such.module.f", "f@x"]
    for name in names:
        broker.enqueue(
            Message(queue_name="default", actor_name=name, args=("x",), kwargs={}, options={})
        )
    return names


def dead(queue: str = "default") -> list[list[Any]]:
    return [
        [letter.message.actor_name, letter.failure and letter.failure.reason.value]
        for letter in get_broker().dead_letters(queue)
    ]


def without_database() -> str:
    """In a project that has none."""
    return str(elsewhere.far.enqueue("x").id)
