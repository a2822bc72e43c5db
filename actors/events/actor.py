"""``event.record``: inserts analytics events into ClickHouse, many messages per block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

import orjson
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    InstanceOf,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema

from ...config import get_settings
from ...core.errors import InvalidJob, PartsFailed, SinkPermanent, SinkTransient
from ...sinks.clickhouse import TableUnready
from ..job import job_actor
from ..model import AS_IT_IS, Id, Job, Name, When, has_nul, name_in_error
from ..resources import clickhouse, clickhouse_throttle, per_process
from ..spelling import nearest, unknown_key
from .insert import Row, insert
from .routing import Router, TableBackoffs


# A dataclass instead of a JobModel: pydantic makes it in half the time.
@dataclass(
    config=ConfigDict(alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True),
    slots=True,
)
class Event:
    """An event of a form. Unknown keys stay in the message but are not recorded."""

    type: Annotated[Name, Field(description="What happened: form_viewed.")]
    form_id: Name
    event_id: UUID | None = Field(
        default=None,
        description="Events with the same id count once. Default: made when the event is sent "
        "from Python; otherwise derived from message id and content.",
    )
    submission_id: Id | None = None
    session_id: Id | None = None
    occurred_at: When | None = Field(
        default=None,
        description="ISO 8601 with an offset, from 1971 to 2104; default: now.",
    )
    properties: InstanceOf[dict[str, Any]] = Field(  # InstanceOf: pydantic would copy a dict
        default_factory=dict, description="Any other data; stored as JSON text."
    )


def event_row(event: Event) -> Row:
    """The values of :data:`.routing.COLUMNS` for an event that has its id and time.

    Raises:
        InvalidJob: the properties are not JSON, are too large, or contain a NUL character.
    """
    assert event.occurred_at is not None
    return (
        event.form_id,
        event.type,
        event.occurred_at.astimezone(UTC),
        event.event_id,
        event.session_id or "",
        event.submission_id or "",
        _text(event.properties),
    )


def _text(properties: dict[str, Any]) -> str:
    try:
        data = orjson.dumps(properties, option=AS_IT_IS)
    except TypeError as error:
        raise _no_json("properties", error) from None
    limit = get_settings().broker.max_message_bytes
    if len(data) > limit:
        raise InvalidJob(
            f"properties: expected at most {limit} bytes of JSON (MAX_MESSAGE_BYTES), got "
            f"{len(data)}: send a reference to the data instead"
        )
    if has_nul(data):
        raise InvalidJob("properties: expected text without NUL characters, got one")
    return data.decode()


def _no_json(name: str, error: TypeError) -> InvalidJob:
    # orjson's text names types, not values.
    return InvalidJob(f"{name}: expected JSON, got something else ({error})")


def to_wire(events: Sequence[Event], given: Any) -> list[dict[str, Any]]:
    """The payload of a message: events with an id and a time, which stay the same at every attempt.

    Args:
        events: the checked events.
        given: the payload that they were parsed from; its unknown keys are sent too.

    Raises:
        InvalidJob: as for :func:`event_row`.
    """
    found = []
    for place, (event, item) in enumerate(zip(events, _as_list(given), strict=True)):
        try:
            found.append(_one_to_wire(event, item))
            continue
        except InvalidJob as error:
            wrong = _placed(place, error)
        raise wrong  # outside the except block: its context must not hold payload values
    return found


def _one_to_wire(event: Event, given: Any) -> dict[str, Any]:
    event.event_id = event.event_id or uuid4()
    event.occurred_at = event.occurred_at or datetime.now(UTC)
    event_row(event)
    sent = {
        "eventId": str(event.event_id),
        "type": event.type,
        "formId": event.form_id,
        "submissionId": event.submission_id,
        "sessionId": event.session_id,
        "occurredAt": event.occurred_at.isoformat(),
    }
    sent = {name: value for name, value in sent.items() if value is not None}
    return sent | {"properties": event.properties} | _unknown_keys(given)


def _placed(place: int, error: InvalidJob) -> InvalidJob:
    return InvalidJob(f"record_events: payload.{place}.{error}")


_FIELDS = tuple(to_camel(field.name) for field in fields(Event))
#: All names of the fields in JSON, with the name that is sent.
_SPELLINGS = {
    name: to_camel(field.name)
    for field in fields(Event)
    for name in (field.name, to_camel(field.name))
}


def _unknown_keys(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or item.keys() <= _SPELLINGS.keys():
        return {}
    unknown = {name: value for name, value in item.items() if name not in _SPELLINGS}
    given = {_SPELLINGS[name] for name in item if name in _SPELLINGS}
    for name, value in unknown.items():
        if (meant := nearest(str(name), _FIELDS, given)) is not None:
            raise InvalidJob(unknown_key(name_in_error(name), meant))
        try:
            orjson.dumps(value, option=AS_IT_IS)
        except TypeError as error:
            raise _no_json(name_in_error(name), error) from None
    return unknown


def _as_list(payload: Any) -> Any:
    return payload if isinstance(payload, list) else [payload]


class _OneOrMany:
    """The JSON Schema of :func:`_as_list`: an event or a list of events."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


#: The UUID namespace of event ids that are derived from message ids.
_NAMESPACE = UUID("5d1a8f2e-6c3b-4e57-9f0a-2b7c84d1e6a9")
#: Unix milliseconds (the year 2096); a larger timestamp is not in milliseconds.
_MAX_SENT_AT = 4_000_000_000_000


def _rows(job: Job[list[Event]]) -> list[Row]:
    found = []
    for place, event in enumerate(job.payload):
        try:
            if event.event_id is None or event.occurred_at is None:
                _complete(event, f"{job.message_id or uuid4()}/{place}", job.sent_at)
            found.append(event_row(event))
            continue
        except InvalidJob as error:
            wrong = _placed(place, error)
        raise wrong
    return found


def _complete(event: Event, name: str, sent_at: int) -> None:
    """Set the id and the time of an event whose publisher did not.

    The id is derived from the content too, because message ids may repeat: a server was reset, or
    a publisher counts from 1 at each start.

    Args:
        name: the id of the message and the event's index in it.
        sent_at: unix milliseconds of the message, the same at every attempt; 0 for now.
    """
    if event.event_id is None:
        content = orjson.dumps(
            (event.form_id, event.type, event.occurred_at, event.session_id, event.submission_id)
        )
        event.event_id = uuid5(_NAMESPACE, name + content.decode() + _text(event.properties))
    if event.occurred_at is None:
        is_valid = 0 < sent_at < _MAX_SENT_AT  # foreign publishers write anything
        event.occurred_at = (
            datetime.fromtimestamp(sent_at / 1000, UTC) if is_valid else datetime.now(UTC)
        )


@per_process
def _router() -> Router:
    return Router(get_settings().events.tables)


_backoffs = TableBackoffs()


@job_actor(
    "event.record",
    schema=Annotated[list[Event], BeforeValidator(_as_list), Field(min_length=1), _OneOrMany()],
    worker=lambda settings: settings.events,
    batches=True,
    to_wire=to_wire,
    throttle=clickhouse_throttle,
)
def record_events(jobs: list[Job[list[Event]]]) -> None:
    """Insert the events of all jobs, one block per table. A refused row fails its own job only."""
    blocks: defaultdict[str, dict[int, list[Row]]] = defaultdict(dict)  # by table and job
    router = _router()
    failures: dict[int, BaseException] = {}
    for index, job in enumerate(jobs):
        try:
            for name, rows in router.split(_rows(job)).items():
                blocks[name][index] = rows
        except InvalidJob as error:
            failures[index] = error
    unavailable: SinkTransient | None = None
    for name, block in blocks.items():
        later = _backoffs.active(name)
        try:
            refused = {} if later else _insert(name, list(block.values()))
        except TableUnready as error:
            if len(router.tables) == 1:
                raise
            later = _backoffs.failed(name, error)
        except SinkTransient as error:
            unavailable = error
            continue
        if later:  # the other tables need not wait for this one
            failures |= dict.fromkeys(block, later)
            continue
        owners = list(block)
        failures |= {owners[index]: why for index, why in refused.items()}
    if unavailable is not None:
        # The whole batch is retried unchanged, so its tokens tell which blocks are inserted.
        raise unavailable
    if failures:
        raise PartsFailed(failures)


def _insert(name: str, jobs: list[list[Row]]) -> dict[int, SinkPermanent]:
    refused = insert(clickhouse(), _router().tables[name], jobs)
    _backoffs.worked(name)
    return refused
