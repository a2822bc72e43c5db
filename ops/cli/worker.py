"""``formrelay worker``: start worker processes."""

from __future__ import annotations

from typing import Annotated

import typer

from ..boot import become_workers
from ..host import get_host
from ..own_actors import import_actors
from .options import ImportOption


def worker(
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Consume only this queue. Can be repeated."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: WORKER_PROCESSES.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads for each process. Default: WORKER_CONCURRENCY."),
    ] = None,
    imports: ImportOption = None,
) -> None:
    """Start workers with the dramatiq command line."""
    host = get_host()
    host.check_worker()
    become_workers(
        host.worker,
        *(imports or ()),
        queues=queues,
        processes=processes,
        threads=threads,
        declare=lambda: import_actors(imports or ()),
        import_from=list(host.import_from()),
    )
