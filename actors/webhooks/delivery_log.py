"""The delivery log: a row in ClickHouse for every attempt to deliver a webhook.

Attempts are collected in memory and sent in batches to the queue of events, so no delivery waits
for the broker or for ClickHouse.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 resolves the base's annotations here
)

from ...brokers import MessageTooLarge, get_broker
from ...config import get_settings
from ...core.errors import BrokerError, PartsFailed
from ...core.periodic import Periodic
from ..events.insert import Row, Table, insert
from ..job import job_actor
from ..model import Job, JobModel
from ..payload_secrets import encrypted_call, secrets_of
from ..resources import clickhouse, clickhouse_throttle, per_process
from .resources import endpoint_registry, records_deliveries

logger = logging.getLogger("formrelay.webhooks")

TABLE = "webhook_deliveries"
#: Name of the actor that sends delivered jobs again, for their encryption.
_RESENT_BY = "deliver_webhook"
#: Time between two sends.
_INTERVAL = timedelta(milliseconds=200)
#: Maximum number of attempts in one message.
_MAX_ATTEMPTS_PER_MESSAGE = 200
#: Maximum numbers of attempts and of delivered jobs kept while the broker is unavailable. Beyond
#: that, the oldest are dropped.
_MAX_PENDING_ATTEMPTS = 20_000
_MAX_PENDING_JOBS = 2_000


class DeliveryAttempt(JobModel):
    """One attempt to deliver one webhook, without the body, headers and secrets.

    Attributes:
        outcome: ``delivered``, ``refused`` (not retried) or ``failed`` (retried if an attempt is
            left). A newer version may have further outcomes.
        status: HTTP status; 0 without a response.
        duration_ms: duration of the request, without the wait for the concurrency limit.
        error: class of the error; empty without an error.
        message: text of the error, without payload values; empty without an error.
        response: size and media type of the response body; with WEBHOOK_KEEP_RESPONSE_TEXT its
            first characters.
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


#: Columns of the table, the sorting key first.
COLUMNS = tuple(dict.fromkeys(["webhook_id", "at", "attempt_id", *DeliveryAttempt.model_fields]))
_TARGET = Table(TABLE, COLUMNS, time=COLUMNS.index("at"))


def to_row(attempt: DeliveryAttempt) -> Row:
    """The values of an attempt in the order of :data:`COLUMNS`."""
    values = attempt.__dict__ | {"at": attempt.at.astimezone(UTC)}
    return tuple(values[name] for name in COLUMNS)


@job_actor(
    None,
    schema=list[DeliveryAttempt],
    worker=lambda settings: settings.events,
    batches=True,
    throttle=clickhouse_throttle,
)
def record_attempts(jobs: list[Job[list[DeliveryAttempt]]]) -> None:
    """Insert the attempts of all jobs as one block."""
    failures = insert(clickhouse(), _TARGET, [list(map(to_row, job.payload)) for job in jobs])
    if failures:
        raise PartsFailed(failures)


class DeliveryLog:
    """Collects attempts and sends them. A killed process loses the attempts it has collected.

    Args:
        records_attempts: whether attempts are recorded in ClickHouse.
        keep_delivered: how long delivered jobs are kept for a resend; zero keeps none.

    Attributes:
        is_enabled: whether attempts are recorded, or delivered jobs kept.
    """

    def __init__(self, *, records_attempts: bool, keep_delivered: timedelta) -> None:
        self._records_attempts, self._keep_delivered = records_attempts, keep_delivered
        self.is_enabled = records_attempts or bool(keep_delivered)
        self._attempts: deque[dict[str, Any]] = deque(maxlen=_MAX_PENDING_ATTEMPTS)
        #: Endpoint ids and jobs.
        self._delivered: deque[tuple[str, Job[Any]]] = deque(maxlen=_MAX_PENDING_JOBS)
        self._is_unavailable = False
        self._lock = threading.Lock()
        self._sending = Periodic("attempts", _INTERVAL, self.send)

    def add(self, attempt: dict[str, Any], job: Job[Any]) -> None:
        """Collect an attempt; also its job if it was delivered and is kept for a resend.

        Args:
            attempt: a :class:`DeliveryAttempt` as JSON (camelCase keys), without ``attemptId``.
        """
        if self._records_attempts:
            self._sending.start()
            self._attempts.append(attempt)
        if self._keep_delivered and attempt["outcome"] == "delivered":
            self._sending.start()
            self._delivered.append((attempt["endpoint"], job))

    def stop(self) -> None:
        """Stop the thread and send the remaining attempts; the next attempt starts it again."""
        self._sending.stop()
        self.send()

    def send(self) -> None:
        """Send the collected attempts, and store the delivered jobs."""
        with self._lock:
            errors = []
            for step in (self._send_attempts, self._store_delivered):
                try:
                    step()
                except BrokerError as error:
                    errors.append(error)
            if errors and not self._is_unavailable:
                extra = {"error_message": str(errors[0])}
                logger.warning("cannot record delivery attempts, retrying", extra=extra)
            self._is_unavailable = bool(errors)

    def _send_attempts(self) -> None:
        attempts = [self._attempts.popleft() for _ in range(len(self._attempts))]
        for attempt in attempts:
            attempt.setdefault("attemptId", str(uuid4()))
        for start in range(0, len(attempts), _MAX_ATTEMPTS_PER_MESSAGE):
            try:
                _send(attempts[start : start + _MAX_ATTEMPTS_PER_MESSAGE])
            except BrokerError:
                self._attempts.extendleft(reversed(attempts[start:]))
                raise

    def _store_delivered(self) -> None:
        jobs = [self._delivered.popleft() for _ in range(len(self._delivered))]
        kept, newest = {}, {}
        for endpoint, job in jobs:
            wire = {"payload": job.payload.wire(), "metadata": job.metadata.wire()}
            # With its id, since a payload with encrypted secrets cannot be changed.
            id = wire["payload"].setdefault("id", f"msg_{job.message_id}")
            secrets = secrets_of(type(job.payload))
            wire = encrypted_call(_RESENT_BY, secrets, wire, if_possible=True)
            kept[id], newest[endpoint] = orjson.dumps(wire), id
        if not kept:
            return
        try:
            endpoint_registry().keep(kept, self._keep_delivered, newest=newest)
        except BrokerError:
            self._delivered.extendleft(reversed(jobs))
            raise


def _send(attempts: list[dict[str, Any]]) -> None:
    """Send attempts as one message; if it is too large, as several messages."""
    try:
        get_broker().enqueue(record_attempts.message_of(attempts))
    except MessageTooLarge:
        if len(attempts) > 1:
            middle = len(attempts) // 2
            _send(attempts[:middle])
            _send(attempts[middle:])
        elif attempts[0]["response"]:
            _send([attempts[0] | {"response": ""}])
        else:  # MAX_MESSAGE_BYTES is a few hundred bytes
            logger.error("attempt not recorded: larger than MAX_MESSAGE_BYTES")


@per_process
def delivery_log() -> DeliveryLog:
    """The delivery log of this process."""
    keep_delivered = get_settings().webhooks.keep_delivered
    return DeliveryLog(records_attempts=records_deliveries(), keep_delivered=keep_delivered)


def attempts_of(id: str, *, limit: int) -> list[DeliveryAttempt]:
    """The recorded attempts of a webhook, oldest first.

    Args:
        id: webhook-id or message id.
        limit: maximum number of attempts.

    Raises:
        ConfigError: CLICKHOUSE_URL is not set.
        SinkError: ClickHouse is unavailable, or the table does not exist.
    """
    columns = ", ".join(COLUMNS)
    rows = clickhouse().query(
        f"SELECT {columns} FROM {TABLE}_once "  # noqa: S608 - our own names
        "WHERE webhook_id IN (%(id)s, %(webhook_id)s) OR message_id = %(id)s "
        "ORDER BY at, attempt LIMIT %(limit)s",
        {"id": id, "webhook_id": f"msg_{id}", "limit": limit},
    )
    return [_from_row(row) for row in rows]


def webhooks_like(prefix: str, *, limit: int) -> list[str]:
    """The recorded webhook-ids that begin with a prefix, or whose message ids do.

    Raises:
        as :func:`attempts_of`.
    """
    rows = clickhouse().query(
        f"SELECT DISTINCT webhook_id FROM {TABLE}_once "  # noqa: S608 - our own names
        "WHERE startsWith(webhook_id, %(id)s) OR startsWith(webhook_id, %(webhook_id)s) "
        "OR startsWith(message_id, %(id)s) ORDER BY webhook_id LIMIT %(limit)s",
        {"id": prefix, "webhook_id": f"msg_{prefix}", "limit": limit},
    )
    return [str(webhook_id) for (webhook_id,) in rows]


def _from_row(row: tuple[Any, ...]) -> DeliveryAttempt:
    values = dict(zip(COLUMNS, row, strict=True))
    at = values["at"]
    return DeliveryAttempt(**values | {"at": at if at.tzinfo else at.replace(tzinfo=UTC)})
