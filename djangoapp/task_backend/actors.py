"""One Dramatiq actor for each task, declared at first use.

An actor has the path of its task as its name, so that dead letters, logs and dashboards name the
task. A task that is sent with another backend than its own (``using(backend="slow")``) has an
actor of its own, ``shop.tasks.charge@slow``, with the options of that backend.
"""

from __future__ import annotations

import logging
from functools import wraps
from inspect import iscoroutinefunction
from threading import RLock
from typing import Any

import dramatiq
from django.utils.module_loading import import_string
from dramatiq.middleware import CurrentMessage

from ...brokers import RelayBroker, get_broker
from ...core.errors import describe
from ...middleware.attempts import Attempts
from ...state import make_result_store
from . import api
from .coroutine import with_own_thread
from .lifecycle import TaskLifecycle
from .options import BackendOptions
from .results import TaskResults
from .running import call
from .task import options_of

logger = logging.getLogger("formrelay.djangoapp")

_lock = RLock()
_actors: TaskActors | None = None


def task_actors() -> TaskActors:
    """Return the actors of this process's tasks, on formrelay's broker.

    Raises:
        ConfigError, BrokerRefused, BrokerUnavailable: as :func:`formrelay.brokers.get_broker`.
    """
    global _actors
    with _lock:
        if _actors is None:
            _actors = TaskActors(get_broker())
        return _actors


def declared_task(task: Any) -> Any:
    """Return the task that a worker finds under the path of ``task``.

    Raises:
        InvalidTask: there is none, or it runs another function.
    """
    path = task.module_path
    if task.func.__module__ == "__main__":
        raise api.InvalidTask(
            f"expected the task {path!r} in a module that workers can import, got the program "
            "itself: move it, for example to tasks.py of an app"
        )
    found: Any = None
    try:
        found = import_string(path)
    except ImportError:
        problem = "nothing that can be imported"
    else:
        problem = f"an object of type {type(found).__name__!r}"
    if isinstance(found, api.Task) and found.func is task.func:
        return found
    raise api.InvalidTask(
        f"expected the path {path!r} to be the task, so that workers find it, got {problem}: "
        "decorate the function with @task, at the top level of its module, under its own name"
    )


class TaskActors:
    """Declares and finds the actors of tasks on a broker."""

    def __init__(self, broker: RelayBroker) -> None:
        self.broker = broker
        self.lifecycle = TaskLifecycle()
        store = make_result_store(broker.state)
        if store is not None:
            self.lifecycle.results = TaskResults(store, self.task_named)
        broker.add_middleware(self.lifecycle, after=Attempts)
        broker.actor_finders.append(self.find)

    def actor_of(self, task: Any) -> dramatiq.Actor[..., Any]:
        """Return the actor of a task; declares it at the first call.

        Raises:
            InvalidTask: workers cannot find the task.
            InvalidPolicy: an option of the task is wrong.
        """
        declared = declared_task(task)
        if task.backend == declared.backend:
            return self._declare(declared.module_path, declared)
        name = f"{declared.module_path}@{task.backend}"
        return self._declare(name, declared.using(backend=task.backend))

    def task_named(self, actor_name: str) -> Any:
        """Return the task of an actor; None if it cannot be found."""
        if actor_name not in self.lifecycle.tasks:
            self.find(actor_name)
        return self.lifecycle.tasks.get(actor_name)

    def find(self, name: str) -> dramatiq.Actor[..., Any] | None:
        """Import the task of an actor's name and declare the actor; None if there is none."""
        path, _, alias = name.partition("@")
        if "." not in path:
            return None
        try:
            task = import_string(path)
            # Never another function: the sender of a message must not choose what a worker calls.
            if not isinstance(task, api.Task) or task.module_path != path:
                return None
            task = task.using(backend=alias) if alias else task
            return self._declare(name, task) if _is_ours(task) else None
        except Exception as error:
            logger.error(
                "a task cannot be imported",
                extra={"actor": name, "error_message": describe(error)},
            )
            return None

    def _declare(self, name: str, task: Any) -> dramatiq.Actor[..., Any]:
        with _lock:
            if name in self.broker.actors:
                return self.broker.actors[name]
            parameters = task.get_backend().parameters
            self.lifecycle.tasks[name] = task
            self.lifecycle.keep[name] = parameters.keep_results
            options: dict[str, Any] = {**parameters.actor, **options_of(task)}
            declare = dramatiq.actor(
                actor_name=name, queue_name=task.queue_name, broker=self.broker, **options
            )
            try:
                return declare(self._function(task))
            except BaseException:
                del self.lifecycle.tasks[name], self.lifecycle.keep[name]
                raise

    def _function(self, task: Any) -> Any:
        """The function of the actor: it runs one attempt of the task."""

        @wraps(task.func)
        def run(*_args: Any, **_kwargs: Any) -> None:
            message = CurrentMessage.get_current_message()
            if message is None:
                raise RuntimeError(f"expected {task.module_path} to be run by a worker")
            call(task, self.lifecycle.start(message), self._execute)

        return run

    def _execute(self, task: Any, *args: Any, **kwargs: Any) -> Any:
        if iscoroutinefunction(task.func):
            return self.broker.async_runner.run(with_own_thread(task.func, *args, **kwargs))
        return task.func(*args, **kwargs)


def _is_ours(task: Any) -> bool:
    return isinstance(getattr(task.get_backend(), "parameters", None), BackendOptions)
