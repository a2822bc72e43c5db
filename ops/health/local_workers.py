"""Reads the snapshots of this machine's worker processes in the folder of WORKER_HTTP_PORT.

Needs no broker and no store, so it also finds a worker that can reach neither.
"""

from __future__ import annotations

from ...config import get_settings
from ...core.errors import ConfigError
from ..metrics.files import WorkerFiles
from ..metrics.snapshot import Snapshot


def local_workers() -> dict[str, Snapshot]:
    """Return the last snapshots of the live processes of this machine, by name (``host:pid``).

    Empty without WORKER_HTTP_PORT, and if the folder cannot be read.
    """
    try:
        settings = get_settings().worker_http
        if settings.port is None or not settings.folder.is_dir():
            return {}
        live = WorkerFiles(settings.folder).read().live
    except (ConfigError, OSError):  # for example the folder of another user
        return {}
    return {each.name: each for each in live}
