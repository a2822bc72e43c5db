"""Tasks: replays and deletions of many dead letters, with their progress."""

from __future__ import annotations

from typing import Any

from werkzeug import Response

from ..tasks import is_lost
from ..view import Route, View

#: Seconds between two refreshes of the page of a task that runs.
_REFRESH_SECONDS = 1


def show(view: View) -> Response:
    """List the tasks of the last day."""
    tasks = view.site.tasks.store(view.broker).newest()
    about: dict[str, Any] = {"is_lost": is_lost, "now": view.now, "is_shared": _is_shared(view)}
    return view.render("tasks.html", title="Tasks", tasks=tasks, **about)


def show_one(view: View) -> Response:
    """Show the progress of a task."""
    task = view.site.tasks.store(view.broker).find(view.argument("id"))
    if task is None:
        where = "" if _is_shared(view) else " or belongs to another process (STATE_URL is not set),"
        raise view.not_found(f"There is no such task,{where} or it ended more than a day ago.")
    about: dict[str, Any] = {"lost": is_lost(task, view.now), "is_shared": _is_shared(view)}
    if not task.is_over:
        about["refresh_seconds"] = _REFRESH_SECONDS
    return view.render("task.html", title="Task", task=task, now=view.now, **about)


def _is_shared(view: View) -> bool:
    """Whether all processes share their tasks."""
    return view.broker.state is not None


def stop(view: View) -> Response:
    """Ask to stop a task after its current step."""
    id = view.field("id")
    if view.site.tasks.store(view.broker).request_stop(id, view.operator.who):
        view.record("task stop", id=id)
        return view.redirect("task", id=id, flash="The task stops after its current step.")
    return view.redirect("task", id=id, flash="The task is over already.", kind="problem")


ROUTES = (
    Route("/tasks", "tasks", show),
    Route("/task", "task", show_one),
    Route("/task/stop", "task.stop", stop, method="POST"),
)
