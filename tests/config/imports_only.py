"""Imports the configuration in an environment whose variables must not be read."""

from __future__ import annotations

import os
from typing import Any

import pydantic  # reads variables of its own

WATCHED = {"BROKER", "REDIS_URL", "LOG_LEVEL", "DEBUG", "WORKER_CONCURRENCY"}


class Watched(dict[str, str]):
    """An environment that exits the program if a variable of formrelay is read."""

    def _get(self, name: str, *default: Any) -> Any:
        if name in WATCHED:
            raise SystemExit(f"read {name}")
        return dict.get(self, name, *default)

    get = __getitem__ = _get  # type: ignore[assignment]


if __name__ == "__main__":
    import formrelay.core.retry

    # Replaces os.environ on purpose, which B003 mistakes for an attempt to clear it.
    os.environ = Watched(os.environ, **dict.fromkeys(WATCHED, "x"))  # type: ignore[assignment]  # noqa: B003
    import formrelay.config
    import formrelay.config.report
