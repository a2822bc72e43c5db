"""Become worker processes: the dramatiq command line with what the configuration says."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..brokers import get_broker
from ..config import get_settings
from ..core.errors import ConfigError
from .boot import check_queues, check_sinks, declare_actors, is_embedded_clickhouse


def become_workers(
    module: str,
    *,
    queues: Sequence[str] | None = None,
    processes: int | None = None,
    threads: int | None = None,
    declare: Callable[[], None] = declare_actors,
    import_from: Sequence[str] = (),
) -> NoReturn:
    """Look whether workers can start, and replace this process by Dramatiq's.

    Args:
        module: what is given to ``dramatiq``.
        queues: only these.
        processes: None is WORKER_PROCESSES.
        threads: a process; None is WORKER_CONCURRENCY.
        declare: declares the actors that the module declares.
        import_from: folders in which Python looks first, in this order; none is the current one.

    Raises:
        ConfigError: the configuration is wrong, or such a queue is not known.
        BrokerUnavailable, BrokerRefused: the broker cannot be used.
    """
    settings = get_settings()
    processes = processes or settings.worker_processes
    embedded = is_embedded_clickhouse(settings.clickhouse.secret("url"))
    if embedded and processes > 1 and (not queues or settings.events.queue in queues):
        raise ConfigError(
            f"expected one process for the queue {settings.events.queue!r} with an embedded "
            f"ClickHouse, got {processes}: chdb:// can be open in one process at a time"
        )
    # The workers look as well; here it is one line instead of one a process.
    declare()
    check_queues(queues)
    get_broker().ping(queues or None)
    if not embedded:
        check_sinks(queues)
    command = [sys.executable, "-m", "dramatiq", module]
    command += ["--processes", str(processes)]
    command += ["--threads", str(threads or settings.worker_concurrency)]
    if queues:
        command += ["--queues", *queues]
    if import_from:
        # Dramatiq puts one after the other before all the others.
        command += ["--path", *reversed(import_from)]
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, and signals reach Dramatiq
