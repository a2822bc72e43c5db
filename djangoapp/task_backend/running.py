"""Runs one attempt of a task and keeps its return value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...core.errors import InvalidJob
from . import api
from .message import set_fields


class NotJsonResult(InvalidJob, TypeError):
    """A task returned a value that is not JSON. It has run, and is not retried."""


def call(task: Any, result: Any, execute: Callable[..., Any]) -> None:
    """Call the function of a task, and set the return value of ``result``.

    Args:
        execute: called with the task and its arguments.

    Raises:
        NotJsonResult: the return value is not JSON.
    """
    args = list(result.args)
    if task.takes_context:
        args.insert(0, api.TaskContext(task_result=result))
    value = execute(task, *args, **result.kwargs)
    set_fields(result, _return_value=_as_json(task, value))


def _as_json(task: Any, value: Any) -> Any:
    try:
        normal = api.normalize_json(value)
        json.dumps(normal, allow_nan=False)
    except (TypeError, ValueError) as error:  # the texts name types, no values
        raise NotJsonResult(
            f"{task.module_path}: expected a return value that JSON can hold, got another: {error}"
        ) from error
    return normal
