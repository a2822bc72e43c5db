"""dramatiq-dashboard on formrelay's queues in Redis, with every Dramatiq that formrelay supports.

The pages, the routes and the protection against forged requests are the package's. Its access to
Redis is replaced by formrelay's inspector: the package knows stock Dramatiq's keys alone. It would
leave the ids and priorities of deleted jobs behind, fail on plain jobs, and requeue by deleting
before sending.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

from dramatiq import Message
from dramatiq.common import q_name

from ..brokers.base import RelayBroker
from ..brokers.inspection import Entry, State, UnknownCursor
from ..brokers.redis.broker import RedisBroker
from ..core.errors import BrokerError, ConfigError, describe
from ..core.printable import shown_id
from ..state import make_audit_log
from ..state.audit import AuditEntry
from .masking import masked_message, without_tokens

logger = logging.getLogger("formrelay.audit")

WSGIApplication: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: The operator in the audit log: the package has no login, so nobody's name is known.
_WHO = "dramatiq-dashboard"
#: Number of jobs on a page.
PAGE_SIZE = 100
#: The states of each tab, in the order in which its pages list them.
_TABS = {
    "standard": (State.IN_FLIGHT, State.WAITING),
    "delayed": (State.SCHEDULED,),
    "failed": (State.DEAD,),
}
_SUFFIXES = {"standard": "", "delayed": ".DQ", "failed": ".XQ"}
_HOW_TO_INSTALL = (
    "expected dramatiq-dashboard 0.4.0 and jinja2: "
    "pip install jinja2 && pip install --no-deps dramatiq-dashboard==0.4.0"
)


def make_app(broker: RelayBroker, prefix: str = "", *, reveal: bool = False) -> WSGIApplication:
    """Make a WSGI application that serves dramatiq-dashboard on the queues of a broker.

    It has no login: serve it behind a login.

    Args:
        broker: a broker on Redis, as :func:`formrelay.brokers.get_broker` returns it.
        prefix: path under which the application is mounted, such as ``/drama``, without a final
            slash. The server removes it from ``PATH_INFO``.
        reveal: show the values of payloads, which may contain personal data, instead of masks.

    Raises:
        ConfigError: the broker is not on Redis, or the package is not installed.
    """
    if not isinstance(broker, RedisBroker):
        raise ConfigError(
            "expected a broker on Redis, since dramatiq-dashboard shows no other; "
            "`formrelay dashboard` works on every broker"
        )
    application: WSGIApplication = _application_class()(broker, prefix, reveal)
    return application


class Jobs:
    """What the pages show and change, by the package's names of queues: ``Q``, ``Q.DQ``, ``Q.XQ``.

    Args:
        stock: the package's module ``interface``, which defines what its templates show.
        reveal: show payloads without masks.
    """

    def __init__(self, broker: RedisBroker, stock: Any, reveal: bool) -> None:
        self._broker = broker
        self._inspector = broker.inspector
        self._stock = stock
        self._shown = without_tokens if reveal else masked_message

    @property
    def queues(self) -> list[Any]:
        """All queues of the broker, by name."""
        return [self.get_queue(name) for name in self._inspector.queues()]

    @property
    def workers(self) -> list[Any]:
        """formrelay's worker processes."""
        client, keys = self._broker.client, self._broker.keys
        return [
            self._stock.Worker(
                name=worker.name or worker.id,
                last_seen=_utc(worker.last_heartbeat or 0),
                jobs_in_flight=sum(
                    client.scard(keys.in_flight(worker.id, queue)) for queue in worker.queues
                ),
            )
            for worker in self._inspector.workers()
        ]

    def get_queue(self, name: str) -> Any:
        counts = self._inspector.counts(name)
        return self._stock.Queue(
            name=name,
            jobs=counts.waiting + (counts.in_flight or 0),
            jobs_delayed=counts.scheduled or 0,
            jobs_dead=counts.dead,
        )

    def has_queue(self, name: str) -> bool:
        return self._inspector.has_queue(name)

    def page(self, name: str, tab: str, cursor: str | None) -> tuple[list[Any], str | None]:
        """Return one page of a tab, and the cursor of the next page (None on the last page).

        Raises:
            UnknownCursor: the cursor belongs to another tab.
        """
        entries: list[Entry] = []
        for state in _states_from(_TABS[tab], cursor):
            page = self._inspector.browse(name, state, limit=PAGE_SIZE, cursor=cursor)
            entries, cursor = [*entries, *page.entries], page.cursor
            if cursor is not None:
                break
        return [self._job(entry) for entry in entries], cursor

    def get_job(self, queue: str, id: str) -> Any | None:
        entry = self._find(queue, id)
        return None if entry is None else self._job(entry)

    def requeue(self, queue: str, id: str) -> bool:
        """Replay a dead letter; False if there is none with this id."""
        name = q_name(queue)
        is_done = bool(self._inspector.replay([id], queue=name))
        return self._audited("dlq replay", name, id, is_done)

    def delete(self, queue: str, id: str) -> bool:
        """Delete a job that no worker runs; False if there is none with this id."""
        name = q_name(queue)
        if _tab_of(queue) == "failed":
            is_done = bool(self._inspector.delete_dead([id], queue=name))
            return self._audited("dlq delete", name, id, is_done)
        return self._audited("jobs cancel", name, id, self._inspector.cancel(name, id))

    def _audited(self, action: str, queue: str, id: str, is_done: bool) -> bool:
        """Write a change to the audit log; a store that fails never undoes the change."""
        if is_done:
            log = make_audit_log(self._broker.state)
            entry = AuditEntry(_WHO, "dashboard", action, shown_id(id), f"queue {queue}", 1)
            try:
                log.add(entry)
            except BrokerError as error:
                about = {"action": action, "target": entry.target}
                about["error_message"] = describe(error)
                logger.warning("the audit log was not written", extra=about)
        return is_done

    def _find(self, queue: str, id: str) -> Entry | None:
        entry = self._inspector.find(id, q_name(queue))
        return entry if entry is not None and entry.state in _TABS[_tab_of(queue)] else None

    def _job(self, entry: Entry) -> Any:
        message = entry.message
        sent = message.message_timestamp / 1000
        return self._stock.Job(
            message_id=entry.id,
            message=Message(**self._shown(message.asdict())),
            eta=_utc(entry.due or sent),
            timestamp=_utc(sent),
            retries=message.options.get("retries", 0),
        )


def _tab_of(queue: str) -> str:
    """Return the tab that lists a queue of the package."""
    return next(tab for tab in ("failed", "delayed", "standard") if queue.endswith(_SUFFIXES[tab]))


def _states_from(states: tuple[State, ...], cursor: str | None) -> tuple[State, ...]:
    """Return the states that a cursor has not passed; cursors begin with their state's letter."""
    first = next((i for i, state in enumerate(states) if cursor and state[0] == cursor[0]), 0)
    return states[first:]


def _utc(seconds: float) -> datetime:
    """Return a time as the package's templates need it: in UTC, without a time zone.

    Another program may have stored a number out of range, which is shown as 1970.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return datetime(1970, 1, 1)


@cache
def _application_class() -> Any:
    """Return the package's application with formrelay's access to Redis.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from dramatiq_dashboard import DashboardApp, interface
        from dramatiq_dashboard.csrf import csrf_protect
        from dramatiq_dashboard.http import HTTP_405, HTTP_410, handler, redirect, templated
    except ImportError as error:
        raise ConfigError(f"{_HOW_TO_INSTALL} ({error})") from None

    class Application(DashboardApp):
        def __init__(self, broker: RedisBroker, prefix: str, reveal: bool) -> None:
            super().__init__(broker, prefix)
            self.iface = Jobs(broker, interface, reveal)

        @handler
        @csrf_protect
        @templated("queue.html")
        def queue(self, request: Any, *, name: str, current_tab: str = "standard") -> Any:
            if not self.iface.has_queue(name):
                return redirect(self.make_uri())
            try:
                jobs, cursor = self.iface.page(name, current_tab, request.params.get("cursor"))
            except UnknownCursor:
                return redirect(self.make_uri("queues", name, current_tab))
            return {
                "queue": self.iface.get_queue(name),
                "jobs": jobs,
                "cursor": cursor,
                "current_tab": current_tab,
                "queue_for_tab": f"{name}{_SUFFIXES[current_tab]}",
            }

        @handler
        @csrf_protect
        def delete_message(self, request: Any) -> Any:
            return self._change(request, self.iface.delete)

        @handler
        @csrf_protect
        def requeue_message(self, request: Any) -> Any:
            return self._change(request, self.iface.requeue)

        def _change(self, request: Any, change: Callable[[str, str], bool]) -> Any:
            """Change the job that a form names, then show its tab."""
            if request.method != "POST":
                return HTTP_405, "Expected a POST request."
            queue, id = request.post_data.get("queue", ""), request.post_data.get("id", "")
            if not (self.iface.has_queue(q_name(queue)) and change(queue, id)):
                return HTTP_410, "The job is gone, or a worker runs it."
            return redirect(self.make_uri("queues", q_name(queue), _tab_of(queue)))

    return Application
