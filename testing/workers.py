"""A worker in the process of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq import Worker

from ..brokers.base import RelayBroker

#: Milliseconds that an idle thread waits at a time; stopping takes about as long.
_WAIT_MS = 20
#: Milliseconds for running jobs to end when the worker stops.
_STOP_MS = 60_000


@contextmanager
def running_worker(broker: RelayBroker, *, threads: int = 4) -> Iterator[Worker]:
    """Run a Dramatiq worker for all queues of a broker; no thread is left afterwards.

    Args:
        broker: any of formrelay's brokers.
        threads: number of jobs that run at the same time; async actors need no thread.
    """
    worker = Worker(broker, worker_timeout=_WAIT_MS, worker_threads=threads)
    try:
        worker.start()
        yield worker
    finally:
        worker.stop(timeout=_STOP_MS)
        # Dramatiq leaves a middleware of the worker, which would start a consumer of the stopped
        # worker for each queue that is declared later.
        broker.remove_middleware(lambda one: getattr(one, "worker", None) is worker)
        broker.async_runner.stop()
