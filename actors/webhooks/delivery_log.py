"""The delivery log: every attempt to deliver a webhook, in ClickHouse.

An attempt is noted in this process's memory, and all that have gathered are sent as one message
through the queue of events: no delivery waits for a broker or for ClickHouse.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ...brokers import MessageTooLarge, get_broker
from ...config import get_settings
from ...core.errors import BrokerError, PartsFailed
from ...core.periodic import Periodic
from ..events.insert import Row, Table, insert
from ..job import job_actor
from ..model import Job, JobModel
from ..resources import clickhouse, clickhouse_throttle, per_process
from .resources import endpoint_registry, records_deliveries

logger = logging.getLogger("formrelay.webhooks")

TABLE = "webhook_deliveries"
#: So often what has gathered is sent.
_INTERVAL = timedelta(milliseconds=200)
#: Of one message.
_MOST_IN_A_MESSAGE = 200
#: While the broker does not take them, so many are kept; then the oldest are let go.
_MOST_KEPT = 20_000
_MOST_JOBS_KEPT = 2_000


class Attempt(JobModel):
    """One attempt to deliver one webhook. Never the body, a header, or a secret.

    Attributes:
        outcome: ``delivered``; ``refused`` will not be tried again; ``failed`` will, if an
            attempt is left. A newer version may have more, which this one keeps.
        status: what was answered; 0 where nothing was.
        duration_ms: of the request, waiting for a turn not counted.
        error: the class of the error; empty for none.
        response: size and type of the answer's body; with WEBHOOK_KEEP_RESPONSE_TEXT how it
            begins.
    """

    attempt_id: UUID = Field(default_factory=uuid4)
    webhook_id: str
    message_id: str
    endpoint: str
    host: str
    form_id: str = ""
    submission_id: str = ""
    attempt: int
    outcome: str
    status: int = 0
    duration_ms: float
    error: str = ""
    message: str = ""
    response: str = ""
    at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


#: Those of the sorting key stand first.
COLUMNS = tuple(dict.fromkeys(["webhook_id", "at", "attempt_id", *Attempt.model_fields]))
_INTO = Table(TABLE, COLUMNS, time=COLUMNS.index("at"))


def to_row(attempt: Attempt) -> Row:
    """The values of :data:`COLUMNS`."""
    values = attempt.__dict__ | {"at": attempt.at.astimezone(UTC)}
    return tuple(values[name] for name in COLUMNS)


@job_actor(
    None,
    schema=list[Attempt],
    worker=lambda settings: settings.events,
    batches=True,
    throttle=clickhouse_throttle,
)
def record_attempts(jobs: list[Job[list[Attempt]]]) -> None:
    """Insert the attempts of all jobs as one block."""
    failures = insert(clickhouse(), _INTO, [[to_row(one) for one in job.payload] for job in jobs])
    if failures:
        raise PartsFailed(failures)


class DeliveryLog:
    """Gathers attempts and sends them; what a process that is killed has gathered is lost.

    Args:
        records: whether attempts are recorded in ClickHouse.
        keeps: for how long what was delivered is kept for a resend; zero for not at all.
    """

    def __init__(self, *, records: bool, keeps: timedelta) -> None:
        self._records, self._keeps = records, keeps
        self._noted: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._delivered: deque[Job[Any]] = deque(maxlen=_MOST_JOBS_KEPT)
        self._is_away = False
        self._lock = threading.Lock()
        self._sending = Periodic("attempts", _INTERVAL, self.send)

    def note(self, attempt: dict[str, Any], job: Job[Any]) -> None:
        """Take down one attempt, as :class:`Attempt` is on the wire (camelCase), without its id."""
        if self._records:
            self._sending.start()
            self._noted.append(attempt)
        if self._keeps and attempt["outcome"] == "delivered":
            self._sending.start()
            self._delivered.append(job)

    def stop(self) -> None:
        """End the thread and send the rest; another attempt starts the thread again."""
        self._sending.stop()
        self.send()

    def send(self) -> None:
        """Send what has gathered."""
        with self._lock:
            errors = []
            for step in (self._send_noted, self._keep_delivered):
                try:
                    step()
                except BrokerError as error:
                    errors.append(error)
            if errors and not self._is_away:
                logger.warning("attempts cannot be recorded", extra={"why": str(errors[0])})
            self._is_away = bool(errors)

    def _send_noted(self) -> None:
        noted = [self._noted.popleft() for _ in range(len(self._noted))]
        for attempt in noted:
            attempt.setdefault("attemptId", str(uuid4()))
        for start in range(0, len(noted), _MOST_IN_A_MESSAGE):
            try:
                _send(noted[start : start + _MOST_IN_A_MESSAGE])
            except BrokerError:
                self._noted.extendleft(reversed(noted[start:]))
                raise

    def _keep_delivered(self) -> None:
        jobs = [self._delivered.popleft() for _ in range(len(self._delivered))]
        kept = {}
        for job in jobs:
            wire = {"payload": job.payload.wire(), "metadata": job.metadata.wire()}
            kept[wire["payload"].get("id") or f"msg_{job.message_id}"] = orjson.dumps(wire)
        if not kept:
            return
        try:
            endpoint_registry().keep(kept, self._keeps)
        except BrokerError:
            self._delivered.extendleft(reversed(jobs))
            raise


def _send(part: list[dict[str, Any]]) -> None:
    """Send some attempts as one message, or as more where that is too large."""
    try:
        get_broker().enqueue(record_attempts.message_of(part))
    except MessageTooLarge:
        if len(part) > 1:
            middle = len(part) // 2
            _send(part[:middle])
            _send(part[middle:])
        elif part[0]["response"]:
            _send([part[0] | {"response": ""}])
        else:  # MAX_MESSAGE_BYTES is of some hundred
            logger.error("an attempt is too large to be recorded")


@per_process
def delivery_log() -> DeliveryLog:
    """This process's log of attempts."""
    keeps = get_settings().webhooks.keep_delivered
    return DeliveryLog(records=records_deliveries(), keeps=keeps)


def attempts_of(id: str, *, limit: int) -> list[Attempt]:
    """What was recorded of a webhook, the first attempt first.

    Args:
        id: its webhook-id, or the id of its message.

    Raises:
        ConfigError: there is no CLICKHOUSE_URL.
        SinkError: ClickHouse is away, or has no such table.
    """
    columns = ", ".join(COLUMNS)
    rows = clickhouse().query(
        f"SELECT {columns} FROM {TABLE}_once "  # noqa: S608 - our own names
        "WHERE webhook_id IN (%(id)s, %(made)s) OR message_id = %(id)s "
        "ORDER BY at, attempt LIMIT %(limit)s",
        {"id": id, "made": f"msg_{id}", "limit": limit},
    )
    return list(_read(rows))


def _read(rows: Iterable[tuple[Any, ...]]) -> Iterable[Attempt]:
    for row in rows:
        values = dict(zip(COLUMNS, row, strict=True))
        at = values["at"]
        yield Attempt(**values | {"at": at if at.tzinfo else at.replace(tzinfo=UTC)})
