"""The backend of Django's Tasks API: ``"formrelay.djangoapp.tasks.FormrelayBackend"``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from django.apps import apps
from django.core.checks import CheckMessage

from ...brokers import get_broker
from ...brokers.contract import LONGEST_DELAY
from ...config import Settings, get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import FormrelayError, InvalidJob
from ..commit import send_on_commit
from ..publishing import send_all
from . import api
from .actors import task_actors
from .checks import check_backend, own_queues
from .message import due_at, from_millis, is_queue_name, make_message, new_result, set_fields
from .options import BackendOptions
from .results import add_failure
from .task import FormrelayTask

_NO_RESULTS = "expected a backend that keeps results of tasks."
_NO_PRIORITY = (
    "expected a task without priority: on RabbitMQ, set RABBITMQ_MAX_PRIORITY=9 to use priorities."
)


class FormrelayBackend(api.BaseTaskBackend):
    """Runs tasks on formrelay's queues.

    Args:
        alias: its name in the setting ``TASKS``.
        params: ``QUEUES``, ``ENQUEUE_ON_COMMIT`` (default True) and ``OPTIONS``, see
            docs/django-tasks.md.

    Raises:
        InvalidTaskBackend: a parameter is wrong.
    """

    task_class = FormrelayTask
    supports_defer = True
    supports_async_task = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self.parameters = BackendOptions.of(alias, params)

    @property
    def supports_get_result(self) -> bool:
        """Whether results are kept: in the Redis of STATE_URL, otherwise of the broker."""
        return self._why_no_results() is None

    @property
    def supports_priority(self) -> bool:
        """Whether the broker orders messages by priority."""
        # While apps are loaded, @task must not read the configuration.
        settings = _settings() if apps.ready else None
        return settings is None or has_priorities(settings)

    def validate_task(self, task: Any) -> None:
        """Check that the backend can run a task.

        Raises:
            InvalidTask: it cannot.
        """
        if task.priority and not self.supports_priority:
            raise api.InvalidTask(_NO_PRIORITY)
        super().validate_task(task)
        if not is_queue_name(task.queue_name):
            raise api.InvalidTask(
                f"Queue {task.queue_name!r} is not valid for backend: expected letters, digits, "
                "'.', '_' and '-', beginning with a letter or '_'."
            )

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Send a task when the transaction commits; without a transaction, immediately.

        Returns:
            A task result; ``enqueued_at`` is None until the task is sent.

        Raises:
            InvalidTask: the task cannot be run: its queue, priority or path is wrong, or it is
                due in more than 30 days.
            NotJson, MessageTooLarge: the arguments are not JSON, or too large.
            ConfigError: the configuration is wrong.
            BrokerUnavailable, BrokerRefused: the broker did not accept the task.
        """
        self.validate_task(task)
        actors = task_actors()
        actor, broker = actors.actor_of(task), actors.broker
        _check_queue(task.queue_name)
        _check_run_after(task)
        result = new_result(task, str(uuid4()), args, kwargs)
        priorities = has_priorities(get_settings())
        message = make_message(result, actor.actor_name, has_priorities=priorities)
        try:
            broker.check(message)
        except InvalidJob as error:
            error.reword(f"{task.module_path}: {error}")
            raise

        def sent() -> None:
            set_fields(result, enqueued_at=from_millis(message.message_timestamp))
            api.task_enqueued.send_robust(sender=type(self), task_result=result)

        if self.parameters.on_commit:
            send_on_commit(broker, message, self.parameters.database, sent=sent)
        else:
            send_all(broker, [message])
            sent()
        return result

    def get_result(self, result_id: str) -> Any:
        """Return the result of a task.

        Raises:
            TaskResultDoesNotExist: the task is not sent yet, or its result is no longer kept.
            NotImplementedError: results are not kept.
            BrokerUnavailable, BrokerRefused: the store failed.
        """
        why = self._why_no_results()
        if why is not None:
            raise NotImplementedError(f"{_NO_RESULTS} {why}")
        results = task_actors().lifecycle.results
        assert results is not None
        found = results.get(str(result_id))
        if found is None or found.backend != self.alias:
            raise api.TaskResultDoesNotExist(result_id)
        if not found.is_finished:
            self._add_dead_letter(found)
        return found

    def check(self, **kwargs: Any) -> Iterator[CheckMessage]:
        """Yield problems of the configuration."""
        yield from check_backend(self)

    def _add_dead_letter(self, result: Any) -> None:
        """Complete the result of a task that was dead-lettered outside a worker's hooks.

        Example: a task that kills its workers. RabbitMQ has no look-up by id.
        """
        if get_settings().broker.kind == "rabbitmq":
            return
        queue = result.task.queue_name
        letter = get_broker().inspector.dead_letter(queue, result.id)
        if letter is not None and letter.failure is not None:
            add_failure(result, letter.failure)

    def _why_no_results(self) -> str | None:
        if self.parameters.keep_results is None:
            return f"TASKS[{self.alias!r}]['OPTIONS']['keep_results'] is None."
        try:
            state = get_broker().state
        except FormrelayError as error:
            return str(error)
        if state is None:
            return "Results are kept in Redis: set STATE_URL to one (docs/django-tasks.md)."
        return None


def _check_run_after(task: Any) -> None:
    if task.run_after is None:
        return
    delay = due_at(task.run_after) - SYSTEM_CLOCK.time()
    if delay > LONGEST_DELAY.total_seconds():
        raise api.InvalidTask(
            f"expected run_after to be at most {LONGEST_DELAY.days} days from now, got "
            f"{delay / 86_400:,.0f} days"
        )


def has_priorities(settings: Settings) -> bool:
    """Whether the broker orders messages by priority."""
    broker = settings.broker
    return broker.kind != "rabbitmq" or broker.rabbitmq_max_priority is not None


def _settings() -> Settings | None:
    try:
        return get_settings()
    except FormrelayError:
        return None


def _check_queue(queue: str) -> None:
    """Refuse the queues of formrelay's own actors.

    Their workers may be started without Django (``formrelay worker``), and would dead-letter a
    task as unknown.
    """
    settings = get_settings()
    if queue in own_queues(settings):
        raise api.InvalidTask(
            f"expected a queue other than the queues of formrelay's own actors, got {queue!r}"
        )
