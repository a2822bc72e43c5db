"""The program that runs the commands: ``formrelay`` itself, or manage.py of a Django project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..actors import declare_actors


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Host:
    """What the commands take from the program that runs them.

    Attributes:
        worker: the broker argument of ``dramatiq`` for worker processes.
        declare: declares formrelay's actors and those of the project.
        check_worker: raises a ConfigError if the project's settings allow no worker.
        import_from: returns the folders to put first on the path of worker processes; none uses
            the current folder.
        given: returns the settings of the project by variable, which override the environment;
            None without a project.
    """

    worker: str = "formrelay.worker"
    declare: Callable[[], object] = declare_actors
    check_worker: Callable[[], object] = _nothing
    import_from: Callable[[], Iterable[str]] = tuple
    given: Callable[[], Mapping[str, object] | None] = _nothing


_host = Host()


def get_host() -> Host:
    """Return the host of this process."""
    return _host


def use_host(host: Host) -> None:
    """Run the commands of this process for ``host``."""
    global _host
    _host = host
