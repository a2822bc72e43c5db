"""``formrelay worker``: start worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..host import get_host
from ..own_actors import import_actors
from ..worker.boot import become_workers
from .candidates import queue_names
from .options import ImportOption

QueuesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUEUE...",
        help="Consume only these queues. Default: all.",
        autocompletion=queue_names,
    ),
]
QueuesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        "-q",
        help="Consume only this queue. Can be repeated.",
        autocompletion=queue_names,
    ),
]
ReloadOption = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="Restart when a Python file in the current folder changes. For development.",
    ),
]


def worker(
    only: QueuesArgument = None,
    queues: QueuesOption = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: WORKER_PROCESSES.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads for each process. Default: WORKER_CONCURRENCY."),
    ] = None,
    reload: ReloadOption = False,
    imports: ImportOption = None,
) -> None:
    """Start workers with the dramatiq command line.

    Prints the systems that they connect to. If settings are missing, names
    all missing settings and exits with 2.

    Example: formrelay worker webhooks emails --processes 2
    """
    host = get_host()
    host.check_worker()
    folders = list(host.import_from())

    def start() -> NoReturn:
        become_workers(
            host.worker,
            *(imports or ()),
            queues=[*dict.fromkeys([*(only or ()), *(queues or ())])] or None,
            processes=processes,
            threads=threads,
            declare=lambda: import_actors(imports or ()),
            import_from=folders,
        )

    if not reload:
        start()
    from ..worker.reloading import run_with_reload

    raise typer.Exit(run_with_reload(start, Path(folders[0]) if folders else Path.cwd()))
