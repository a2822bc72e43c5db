"""The monitor of a process: leads, stands by, or reports that the store is unreachable."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from uuid import uuid4

from ...brokers import RelayBroker
from ...config import Settings
from ...config.redis_urls import read_redis_url
from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import BrokerError, describe
from ...core.failure import worker_name
from ...state import make_alert_store
from ...state.alert_store import AlertStore, Leadership, MemoryAlertStore, OutboxEntry
from .alert_states import AlertState
from .collecting import Collector, unreceived
from .findings import Finding, finding
from .heartbeat import Heartbeat
from .machine_lock import MachineLock
from .outbox_delivery import OutboxDelivery
from .receivers import Receiver, make_receivers
from .rules import Evaluation, evaluate
from .watching import Memory, Watch

logger = logging.getLogger("formrelay.alerts")

#: Maximum time of a look in seconds.
_MAX_LOOK = 10.0
#: Number of monitors that report in the leader's place while the store is unreachable.
_DEPUTIES = 2
#: Name of the only lease of a store in memory.
_ALONE = "alone"


class Monitor:
    """Looks for problems at an interval, in a thread, and sends alerts.

    Args:
        receivers: default: the receivers in the settings.
        store: default: the broker's shared store, or the memory of this process.

    Raises:
        ConfigError: a receiver cannot be made.
    """

    def __init__(
        self,
        broker: RelayBroker,
        settings: Settings,
        *,
        receivers: Sequence[Receiver] | None = None,
        store: AlertStore | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        #: Host, process id and random letters, so that no other process has this name.
        self.name = f"{worker_name()}:{uuid4().hex[:8]}"
        self._broker, self._settings, self._clock = broker, settings, clock
        self._interval = settings.monitoring.interval.total_seconds()
        limit = min(_MAX_LOOK, max(1.0, self._interval))
        #: How long the lease of a dead leader lasts: longer than from look to look.
        self._lasts = timedelta(seconds=max(2 * self._interval, self._interval + limit + 1))
        receivers = make_receivers(settings) if receivers is None else receivers
        self._store = make_alert_store(broker.state) if store is None else store
        self._shared = self._make_watch(self._store, self.name, receivers)
        self._own_store = MemoryAlertStore(clock=clock)
        # Needs no store, so that an unreachable store is reported too.
        self._own = self._make_watch(self._own_store, _ALONE, receivers)
        self._collector = Collector(broker, settings, limit=limit)
        #: Without a shared store, one process of a machine monitors.
        self._lock = MachineLock(_address(settings)) if broker.state is None else None
        self._heartbeat = Heartbeat(settings.alerts)
        self._order: tuple[str, ...] = (self.name,)
        self._down_since: float | None = None
        self._is_leader = False
        #: Whether this process has reported that the store is unreachable, but not its return.
        self._has_own = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def _make_watch(self, store: AlertStore, name: str, receivers: Sequence[Receiver]) -> Watch:
        delivery = OutboxDelivery(store, receivers, self._clock)
        return Watch(store, name, self._settings.alerts, delivery)

    # -- the thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread, which looks at once."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.run, name="formrelay-monitor", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """End the thread after the current look, and let another monitor lead at once."""
        self._stopped.set()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread as :meth:`request_stop` does, and wait for its end."""
        self.request_stop()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def run(self) -> None:
        """Look at the interval until :meth:`stop`."""
        stopped = self._stopped
        while True:
            began = monotonic()
            try:
                wait = self.look()
            except Exception as error:  # the thread must go on
                logger.error("monitoring failed", exc_info=error)
                wait = self._interval
            if stopped.wait(max(0.0, wait - (monotonic() - began))):
                break
        self._let_go()

    def _let_go(self) -> None:
        for watch in (self._shared, self._own):
            watch.delivery.join(2.0)
        try:
            self._store.let_go(self.name)
        except BrokerError as error:
            about = {"error_message": describe(error)}
            logger.warning("cannot give back the lease of the monitor", extra=about)
        if self._lock is not None:
            self._lock.let_go()

    # -- one look --------------------------------------------------------------------------

    def look(self) -> float:
        """Look once, and start the delivery of alerts.

        Returns:
            Seconds from the begin of this look to the next.
        """
        if self._lock is not None and not self._lock.hold():
            self._shared.stand_by()
            return self._interval
        try:
            leadership = self._store.lead(self.name, self._lasts, self._clock.time())
            if leadership.leads:
                self._watch(leadership)
        except BrokerError as error:
            self._note_store(error)
            self._shared.deliver_again()
            return self._interval
        self._order = leadership.monitors
        self._note_store(None)
        if leadership.leads:
            return self._interval
        self._is_leader = False
        self._shared.stand_by()
        # A dead leader is replaced as soon as its lease ends.
        return min(self._interval, max(0.0, leadership.ends - leadership.now) + 0.05)

    def _watch(self, leadership: Leadership) -> None:
        if not self._is_leader:
            self._is_leader = True
            logger.info("this monitor leads", extra={"monitor": self.name})
        now = leadership.now
        self._shared.delivery.ahead = now - self._clock.time()

        def look(memory: Memory, outbox: Sequence[OutboxEntry]) -> Evaluation:
            facts = self._collector.collect(leadership.clocks, unreceived(outbox, now))
            alerts = self._settings.alerts
            if facts.queues is not None:
                counts = {each.queue: each.dead for each in facts.queues}
                grown = memory.note_dead(counts, now, alerts.window.total_seconds())
                facts = facts.with_new_dead(grown)
            return evaluate(facts, alerts, memory.alerts)

        if self._shared.note(look, now) is None:
            self._is_leader = False
            self._shared.stand_by()
            logger.info("another monitor leads", extra={"monitor": self.name})
        else:
            self._heartbeat.beat()

    # -- the store is unreachable ------------------------------------------------------------

    def _note_store(self, error: BrokerError | None) -> None:
        """Report that the store is unreachable, or that it is back, if this process reports."""
        now = self._clock.time()
        if error is None:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = now
        speaks = error is not None and self._speaks(now)
        if not speaks and not self._has_own:
            return
        self._own_store.lead(_ALONE, timedelta(days=1), now)
        self._own.note(lambda *_: self._about_store(error if speaks else None), now)
        states, outbox = self._own_store.load()
        self._has_own = bool(states["alerts"] or outbox)

    def _about_store(self, error: BrokerError | None) -> Evaluation:
        found = [] if error is None else [store_finding(self._settings, error)]
        alerts = self._settings.alerts
        return Evaluation([each for each in found if alerts.is_on(each.rule)], frozenset())

    def _speaks(self, now: float) -> bool:
        """Whether this process reports for all monitors: the leader first, deputies later.

        Only one monitor of a machine reports.
        """
        order = [name for name in self._order if name == self.name or not _is_dead(name)]
        place = order.index(self.name) if self.name in order else 0
        host = _host(self.name)
        if any(_host(name) == host for name in order[:place]) or place > _DEPUTIES:
            return False
        assert self._down_since is not None
        return now - self._down_since >= 2 * place * self._interval

    # -- for commands and tests --------------------------------------------------------------

    def firing(self) -> list[AlertState]:
        """Return the alerts that are firing in the shared store, and in this process alone."""
        found = list(Memory.from_json(self._own_store.load()[0]).alerts.values())
        found += Memory.from_json(self._store.load()[0]).alerts.values()
        return [state for state in found if state.is_firing]


def store_finding(settings: Settings, error: BrokerError) -> Finding:
    """The problem that the state store cannot be reached from this machine."""
    rule = "broker_unreachable" if _is_store(settings) else "store_unreachable"
    return finding(rule, describe(error), host=socket.gethostname())


def _is_store(settings: Settings) -> bool:
    """Whether the broker's Redis is the state store too."""
    broker = settings.broker
    url, state_url = broker.secret("redis_url"), broker.secret("state_url")
    if broker.kind == "rabbitmq":
        return False
    if state_url is None or url is None:
        return state_url is None
    return str(read_redis_url(url)) == str(read_redis_url(state_url))


def _address(settings: Settings) -> str:
    """The text that identifies an installation on this machine."""
    broker = settings.broker
    return f"{broker.kind} {broker.secret('rabbitmq_url')} {broker.namespace}"


def _host(monitor: str) -> str:
    return monitor.rsplit(":", 2)[0]


def _is_dead(monitor: str) -> bool:
    """Whether a monitor ran on this machine, and its process does not exist any more."""
    host, pid, _ = monitor.rsplit(":", 2)
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
