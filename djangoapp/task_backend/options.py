"""The parameters of a backend in the setting ``TASKS``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from . import api
from .task import ACTOR_OPTIONS

_PARAMETERS = ("BACKEND", "QUEUES", "OPTIONS", "ENQUEUE_ON_COMMIT")
_OWN = ("keep_results", "database")


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """The checked parameters of a backend.

    Attributes:
        actor: the options of all tasks, by the names of :class:`.task.FormrelayTask`.
        keep_results: how long the result of a finished task is kept; None: results are not kept.
        database: alias of the database whose commit sends a task.
        on_commit: whether a task is sent when the transaction commits.
    """

    actor: Mapping[str, Any]
    keep_results: timedelta | None = timedelta(hours=24)
    database: str | None = None
    on_commit: bool = True

    @classmethod
    def of(cls, alias: str, params: Mapping[str, Any]) -> BackendOptions:
        """Check the parameters of a backend.

        Raises:
            InvalidTaskBackend: a name is unknown, or a value is wrong.
        """
        where = f"TASKS[{alias!r}]"
        _check_names(params, _PARAMETERS, where)
        options = params.get("OPTIONS", {})
        _check(isinstance(options, Mapping), f"{where}['OPTIONS']", "a dictionary", options)
        _check_names(options, (*ACTOR_OPTIONS, *_OWN), f"{where}['OPTIONS']")
        found: dict[str, Any] = {}
        if "keep_results" in options:
            keep = found["keep_results"] = options["keep_results"]
            is_kept = isinstance(keep, timedelta) and keep > timedelta(0)
            label = f"{where}['OPTIONS']['keep_results']"
            _check(keep is None or is_kept, label, "a positive timedelta, or None", keep)
        if "database" in options:
            database = found["database"] = options["database"]
            label = f"{where}['OPTIONS']['database']"
            _check(isinstance(database, str), label, "the alias of a database", database)
        on_commit = params.get("ENQUEUE_ON_COMMIT", True)
        _check(isinstance(on_commit, bool), f"{where}['ENQUEUE_ON_COMMIT']", "a bool", on_commit)
        actor = {name: value for name, value in options.items() if name in ACTOR_OPTIONS}
        return cls(actor, on_commit=on_commit, **found)


def _check_names(given: Iterable[str], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"the nearest is {near[0]!r}" if near else f"known are {', '.join(known)}"
            raise api.InvalidTaskBackend(f"expected known names in {where}, got {name!r}; {hint}")


def _check(is_right: bool, where: str, expected: str, got: Any) -> None:
    if not is_right:
        raise api.InvalidTaskBackend(f"expected {where} to be {expected}, got {got!r}")
