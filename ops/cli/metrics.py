"""``formrelay metrics``: serve the metrics of this machine without running jobs."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from ...brokers import get_broker
from ...config import WorkerHttpSettings, get_settings
from ...core.errors import ConfigError
from ..health.pages import add_health_pages
from ..logs import setup_logging
from ..metrics.files import Machine, WorkerFiles
from ..metrics.queues import QueueFigures, QueueReader
from ..metrics.server import PortServer
from ..output import print_document, say
from ..own_actors import import_actors


def metrics(
    once: Annotated[
        bool, typer.Option("--once", help="Print the page, and end. Opens no port.")
    ] = False,
) -> None:
    """Serve /metrics and health on WORKER_HTTP_PORT without running jobs.

    For machines without workers, so that an autoscaler sees the queues while no
    worker runs. While workers of this machine serve the port, it waits, and takes
    over when they end.

    Example: formrelay metrics --once
    """
    import_actors()
    settings = get_settings().worker_http
    if once:
        queues = QueueReader(get_broker).read()
        print_document(_page(_machine(settings), queues))
        return
    _serve(settings)


def _page(machine: Machine, queues: QueueFigures) -> str:
    try:
        from ..metrics.exposition import render
    except ImportError as error:
        raise ConfigError(
            f"expected the package {error.name} for metrics, which is not installed: "
            "pip install 'formrelay[metrics]'"
        ) from None
    return render(machine, queues)[0].decode().rstrip("\n")


def _machine(settings: WorkerHttpSettings) -> Machine:
    """The workers of this machine; none if there is no port and so no folder."""
    if settings.port is None and settings.dir is None:
        return Machine((), {}, 0, 0, 0)
    return WorkerFiles(settings.folder).read()


def _serve(settings: WorkerHttpSettings) -> None:
    if settings.port is None:
        raise ConfigError(
            "expected WORKER_HTTP_PORT to be set, got nothing: set it to a free port like 9464, or "
            "print the page with --once"
        )
    setup_logging(get_settings().logging)
    add_health_pages()
    files = WorkerFiles(settings.folder)
    server = PortServer(settings, files, QueueReader(get_broker))
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server.start()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"metrics: http://{host}:{settings.port}/metrics  (Ctrl-C stops it)")
    try:
        while not stopped.wait(1):  # with a limit, so that Ctrl-C is noticed
            pass
    finally:
        server.stop()
        signal.signal(signal.SIGTERM, before)
