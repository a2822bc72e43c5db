"""Probes and health on the port of a machine's workers: /livez, /readyz, /api/v1/workers/health.

The probes look at the files of the machine's processes and wait for no server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import orjson

from ...brokers import BrokerUnavailable, RelayBroker, get_broker
from ...core.errors import FormrelayError, describe
from ..metrics.pages import PAGES, Request, Response
from ..metrics.snapshot import Snapshot
from ..output import join_names
from .summary import NOTHING_KNOWN, worker_health
from .worker_states import WorkerState, judge_snapshot

#: Seconds that a request waits for the broker, and for which an answer is shared.
_WAIT, _SHARED = 3.0, 2.0


def add_health_pages() -> None:
    """Add the probes and the health to the pages of the port, before it is served."""
    reader = HealthReader(get_broker)
    PAGES["/livez"] = _livez
    PAGES["/readyz"] = _readyz
    PAGES["/api/v1/workers/health"] = partial(_health, reader)


def _livez(request: Request) -> Response:
    status, text = livez(request.files.read().live)
    return Response(text.encode(), status)


def _readyz(request: Request) -> Response:
    figures = request.queues.figures()
    problem = figures.problem if figures.is_up is False else ""
    status, text = readyz(request.files.read().live, broker_problem=problem)
    return Response(text.encode(), status)


def _health(reader: HealthReader, request: Request) -> Response:
    live = request.files.read().live
    status, found = health(live, reader, is_local=request.is_local)
    return Response(orjson.dumps(found), status, "application/json")


def livez(live: Iterable[Snapshot]) -> tuple[int, str]:
    """Answer 503 if a process hangs: a restart helps. A broker that is away is no reason.

    Args:
        live: the processes of this machine that have not ended.
    """
    hanging = [
        f"{each.name} ({judged.why})"
        for each in live
        if (judged := judge_snapshot(each)).state is WorkerState.HANGS
    ]
    return (503, f"hangs: {join_names(hanging)}\n") if hanging else (200, "ok\n")


def readyz(live: Sequence[Snapshot], *, broker_problem: str) -> tuple[int, str]:
    """Answer 200 if a process takes jobs now; 503 while all start, stop, hang or lack the broker.

    Args:
        live: the processes of this machine that have not ended.
        broker_problem: why the broker does not answer; empty if it does, or if that is not known.
    """
    started = [each for each in live if each.is_ready]
    if not started:
        says = "all worker processes are stopping" if live else "no worker process is ready"
        return 503, f"{says}\n"
    judged = [judge_snapshot(each) for each in started]
    if not any(each.state is WorkerState.OK for each in judged):
        return 503, f"{judged[0].state.replace('_', ' ')}: {judged[0].why}\n"
    if broker_problem:
        return 503, f"no broker: {broker_problem}\n"
    return 200, "ok\n"


class HealthReader:
    """Reads the health of all workers while somebody asks. Concurrent requests share an answer.

    Args:
        broker: returns the broker.
    """

    def __init__(self, broker: Callable[[], RelayBroker]) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        # Protected by the lock:
        self._reading: threading.Event | None = None
        self._read_at = -_SHARED
        self._found: dict[str, Any] | Exception = {}

    def get(self) -> dict[str, Any]:
        """Return the health (:func:`.summary.worker_health`).

        Raises:
            FormrelayError: the broker failed, or does not answer.
        """
        with self._lock:
            if time.monotonic() - self._read_at < _SHARED:
                return self._answer()
            if self._reading is None:
                self._reading = threading.Event()
                # A daemon: a broker that hangs must not keep the process from ending.
                threading.Thread(target=self._read, name="formrelay-health", daemon=True).start()
            reading = self._reading
        if not reading.wait(_WAIT):
            raise BrokerUnavailable(f"the broker does not answer within {_WAIT:g} s")
        with self._lock:
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    def _read(self) -> None:
        found: dict[str, Any] | Exception
        try:
            found = worker_health(self._broker())
        except Exception as error:
            found = error
        with self._lock:
            self._found, self._read_at = found, time.monotonic()
            reading, self._reading = self._reading, None
        if reading is not None:
            reading.set()


def health(
    live: Sequence[Snapshot], reader: HealthReader, *, is_local: bool
) -> tuple[int, dict[str, Any]]:
    """Answer for /api/v1/workers/health: 200 if the broker answers, else 503.

    Args:
        live: the processes of this machine, the only workers that are known without the broker.
        is_local: whether the request comes from this machine; others get the status alone.
    """
    try:
        status, found = 200, reader.get()
    except FormrelayError as error:
        here = [{"name": each.name, **judge_snapshot(each).to_json()} for each in live]
        status = 503
        found = {"status": "down", "error": describe(error), **NOTHING_KNOWN, "workers": here}
    return status, found if is_local else {"status": found["status"]}
