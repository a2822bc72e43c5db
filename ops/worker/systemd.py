"""Tells systemd when a worker process is ready, stops, and still works (``sd_notify``).

A unit with ``Type=notify``, ``NotifyAccess=all`` and ``WatchdogSec=`` is restarted if its workers
hang. Source: the manual page sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware

from ...config import SystemdSettings
from ...core.errors import describe
from ...core.exit_reason import exit_reason
from ...core.periodic import Periodic
from ...core.process import parent_of
from ...middleware.worker_report import longest_stall, running_consumers
from ..health.local_workers import local_workers
from ..health.worker_states import WorkerState, judge_snapshot

logger = logging.getLogger("formrelay.workers")


class SystemdNotify(Middleware):
    """Sends the state of this process to systemd's socket.

    The watchdog is told that the process works only while its consumers look for messages. The
    processes of a unit share one watchdog, so a process that hangs triggers it: the signs of life
    of the others would hide it. A broker that is away is no reason to restart: consumers go on
    looking, and reconnect.

    Args:
        settings: the variables that systemd sets. Without a socket, nothing is sent.
    """

    def __init__(self, settings: SystemdSettings) -> None:
        self._address = settings.notify_socket
        self._limit = settings.watchdog
        self._workers: list[dramatiq.Worker] = []
        self._hung_before = False
        every = self._limit / 3 if self._limit else timedelta(seconds=10)
        self._pings = Periodic("watchdog", every, self._ping, at_once=True)

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._workers.append(worker)
        self._send("READY=1\nSTATUS=consuming")
        if self._address and self._limit:
            self._pings.start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if exit_reason() != "recycled":  # the unit stops if one of its processes says so
            self._send("STOPPING=1\nSTATUS=waiting for the running jobs")

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        # Until now, the watchdog must not end a process whose jobs take long.
        self._workers.remove(worker)
        self._pings.stop()

    def _ping(self) -> None:
        # A consumer that waits for its broker does not hang.
        consumers = [each for each in running_consumers(self._workers) if not each.problem]
        if self._limit is None:
            return
        hangs = longest_stall(consumers) >= self._limit.total_seconds() or _sibling_hangs()
        if not hangs:
            self._send("WATCHDOG=1")
        elif self._hung_before:  # not at once after the whole unit was stopped for a while
            self._send("WATCHDOG=trigger\nSTATUS=a worker process hangs")
        self._hung_before = hangs

    def _send(self, state: str) -> None:
        notify(self._address, state)


def _sibling_hangs() -> bool:
    """Whether another process of this worker command does nothing at all.

    Known with WORKER_HTTP_PORT. A process that is stopped cannot trigger the watchdog itself.
    """
    hanging = [
        each.pid
        for each in local_workers().values()
        if judge_snapshot(each).state is WorkerState.HANGS
    ]
    return any(parent_of(pid) == os.getppid() for pid in hanging if pid != os.getpid())


def notify(address: str, state: str) -> None:
    """Send a state to systemd's socket; does nothing without an address."""
    if not address:
        return
    # An address that starts with @ is in Linux' abstract namespace.
    address = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(1)
            connection.sendto(state.encode(), address)
    except OSError as error:
        logger.warning("cannot notify systemd", extra={"error_message": describe(error)})
