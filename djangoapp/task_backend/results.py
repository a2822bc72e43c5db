"""The results of tasks, as records in the state store.

A record is complete and replaces the one before it, so that a worker can write it without having
read it, and a lost record is written again by the next attempt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError, describe
from ...core.failure import Failure
from ...state.redis.results import RedisResultStore
from . import api
from .message import TASK, new_result, sent_task, set_fields

logger = logging.getLogger("formrelay.djangoapp")

#: Minimum time for which the record of a task that is not finished is kept, from its due time.
_UNFINISHED = timedelta(days=7)
#: Minimum number of seconds between two log lines about an unavailable store.
_LOG_INTERVAL = 30.0
_TIMES = ("enqueued_at", "started_at", "last_attempted_at", "finished_at")
#: The last errors and workers of a task that are kept.
MAX_ERRORS, MAX_WORKERS = 10, 1000


class TaskResults:
    """Reads and writes task results.

    Args:
        declared: returns the task of an actor's name; None if it cannot be found.
    """

    def __init__(self, store: RedisResultStore, declared: Callable[[str], Any]) -> None:
        self._store = store
        self._declared = declared
        self._logged_at: float | None = None

    def get(self, id: str) -> Any:
        """Return the result of a task; None if none is stored.

        Raises:
            TaskResultDoesNotExist: the task of the result cannot be imported.
            BrokerUnavailable, BrokerRefused: the store failed.
        """
        data = self._store.get(id)
        if data is None:
            return None
        record = json.loads(data)
        task = self._declared(record["actor"])
        if task is None:
            raise api.TaskResultDoesNotExist(
                f"{id}: its task {record['actor']!r} cannot be imported here"
            )
        return _from_record(id, record, task)

    def put(self, result: Any, actor_name: str, keep: timedelta) -> None:
        """Store a result; only logs that the store is unavailable, since the task continues."""
        if not result.is_finished:
            keep = max(keep, _UNFINISHED) + _until(result.task.run_after)
        try:
            self._store.put(result.id, json.dumps(_record(result, actor_name)).encode(), keep)
        except (BrokerError, OSError) as error:
            self._log_unavailable(error)

    def earlier(self, id: str) -> Any:
        """Return the result of the earlier attempts of a task, or None.

        Only logs that the store is unavailable.
        """
        try:
            return self.get(id)
        except (BrokerError, OSError) as error:
            self._log_unavailable(error)
        except Exception:  # written by another version
            logger.warning("a stored task result cannot be read", extra={"message_id": id})
        return None

    def _log_unavailable(self, error: BaseException) -> None:
        now = SYSTEM_CLOCK.monotonic()
        if self._logged_at is None or now >= self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            logger.error(
                "task results are not stored: the state store is unavailable",
                extra={"error_message": describe(error)},
            )


def add_failure(result: Any, failure: Failure) -> None:
    """Complete the result of a task that is dead-lettered with ``failure``."""
    name = failure.error
    path = name if "." in name else f"builtins.{name}"
    if all(error.exception_class_path != path for error in result.errors[-1:]):
        where = "".join(f"  {frame}\n" for frame in failure.where)
        error = api.TaskError(
            exception_class_path=path, traceback=f"{where}{name}: {failure.message}\n"
        )
        result.errors.append(error)
    at = datetime.fromisoformat(failure.at) if failure.at else None
    if at is not None and result.enqueued_at is not None and result.enqueued_at.tzinfo is None:
        at = at.astimezone().replace(tzinfo=None)
    set_fields(result, status=api.TaskResultStatus.FAILED, finished_at=at)


def _record(result: Any, actor_name: str) -> dict[str, Any]:
    task = result.task
    about = {"priority": task.priority}
    if task.run_after is not None:
        about["run_after"] = task.run_after.isoformat()
    times = {name: getattr(result, name) for name in _TIMES}
    return {
        "actor": actor_name,
        "queue": task.queue_name,
        TASK: about,
        "args": result.args,
        "kwargs": result.kwargs,
        "status": str(result.status.value),
        "errors": [
            [error.exception_class_path, error.traceback] for error in result.errors[-MAX_ERRORS:]
        ],
        "workers": result.worker_ids[-MAX_WORKERS:],
        "value": result._return_value,
        **{name: at and at.isoformat() for name, at in times.items()},
    }


def _from_record(id: str, record: dict[str, Any], declared: Any) -> Any:
    task = sent_task(declared, record["queue"], record[TASK])
    result = new_result(task, id, record["args"], record["kwargs"])
    set_fields(
        result,
        status=api.TaskResultStatus(record["status"]),
        errors=[
            api.TaskError(exception_class_path=path, traceback=text)
            for path, text in record["errors"]
        ],
        worker_ids=record["workers"],
        _return_value=record["value"],
        **{name: record[name] and datetime.fromisoformat(record[name]) for name in _TIMES},
    )
    return result


def _until(at: datetime | None) -> timedelta:
    if at is None:
        return timedelta(0)
    return max(timedelta(0), at - datetime.now(at.tzinfo))
