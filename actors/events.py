"""``event.record``: analytics events into ClickHouse, many messages a block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4, uuid5

import orjson
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    InstanceOf,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema

from ..config import get_settings
from ..core.errors import InvalidJob, PartsFailed, SinkTransient
from .blocks import Row, Table, insert
from .job import job_actor
from .model import AS_IT_IS, OFFSET, Job, name_in_error, unknown_keys
from .sinks import clickhouse, clickhouse_throttle

#: The table of the types for which there is no other.
EVENTS = "events"
#: Those of the sorting key stand first.
COLUMNS = (
    "form_id",
    "type",
    "occurred_at",
    "event_id",
    "session_id",
    "submission_id",
    "properties",
)

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2106, 1, 1, tzinfo=UTC)
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
_Id = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]

_settings = get_settings().events
_most_bytes = get_settings().broker.max_message_bytes


# A dataclass and no JobModel: of these there are many, and pydantic makes one in half the time.
@dataclass(
    config=ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="allow", hide_input_in_errors=True
    )
)
class Event:
    """One thing that happened to a form. Unknown keys travel along, and are not recorded."""

    type: Annotated[_Name, Field(description="What happened: form_viewed.")]
    form_id: _Name
    event_id: UUID | None = Field(
        default=None,
        description="Known by it, an event that is sent twice counts once. Made in Python when "
        "it is sent; of another publisher's job, from the id of its message.",
    )
    submission_id: _Id | None = None
    session_id: _Id | None = None
    # The years that every ClickHouse's DateTime holds. Beyond them, a time with an offset
    # may have none in UTC, and one such event would fail the block of all others.
    occurred_at: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC),
        ge=_EARLIEST,
        lt=_LATEST,
        description="ISO 8601 with an offset, from 1971 to 2104; now where there is none.",
        json_schema_extra={"pattern": f"^(197[1-9]|19[89][0-9]|20[0-9]{{2}}|210[0-4])-.*{OFFSET}"},
    )
    properties: InstanceOf[dict[str, Any]] = Field(  # not copied, as pydantic would
        default_factory=dict, description="Whatever else there is to say; kept as JSON text."
    )


def to_row(event: Event) -> Row:
    """The values of :data:`COLUMNS`.

    Raises:
        InvalidJob: the properties are no JSON, too large, or have a NUL character.
    """
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
    if len(data) > _most_bytes:
        raise InvalidJob(
            f"properties: expected at most {_most_bytes} bytes of JSON (MAX_MESSAGE_BYTES), got "
            f"{len(data)}: send a reference to the data instead"
        )
    # The first also finds a backslash that is itself escaped, which is no NUL.
    if b"\\u0000" in data and b"\\u0000" in data.replace(b"\\\\", b""):
        raise InvalidJob("properties: expected text without NUL characters, got one")
    return data.decode()


def _no_json(name: str, error: TypeError) -> InvalidJob:
    # orjson's text names types, not values.
    return InvalidJob(f"{name}: expected JSON, got something else ({error})")


def complete(events: Sequence[Event]) -> None:
    """Give each event the id that it keeps at every attempt, and refuse what has no row.

    Raises:
        InvalidJob: as for :func:`to_row`.
    """
    for place, event in enumerate(events):
        event.event_id = event.event_id or uuid4()
        try:
            to_row(event)
            for name, value in unknown_keys(event).items():
                try:
                    orjson.dumps(value, option=AS_IT_IS)
                except TypeError as error:
                    raise _no_json(name_in_error(name), error) from None
            continue
        except InvalidJob as error:
            wrong = InvalidJob(f"record_events: payload.{place}.{error}")
        raise wrong  # outside the except, for the error before it names no place


def _one_or_many(payload: Any) -> Any:
    return payload if isinstance(payload, list) else [payload]


class _OneOrMany:
    """What :func:`_one_or_many` takes, for the JSON Schema."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


#: Whose ids are made from those of their messages.
_NAMESPACE = UUID("5d1a8f2e-6c3b-4e57-9f0a-2b7c84d1e6a9")


def _rows(job: Job[list[Event]]) -> list[Row]:
    for place, event in enumerate(job.payload):
        if event.event_id is None:
            name = f"{job.message_id}/{place}"
            event.event_id = uuid5(_NAMESPACE, name) if job.message_id else uuid4()
    try:
        return [to_row(event) for event in job.payload]
    except InvalidJob:
        complete(job.payload)  # which says of which event
        raise


class Destinations:
    """Which table an event belongs into.

    Args:
        rules: pairs of a type, or the beginning of one with a ``*`` behind it, and a table's
            name; the first that fits counts.
    """

    def __init__(self, rules: Sequence[tuple[str, str]]) -> None:
        self._rules = rules
        names = dict.fromkeys([EVENTS, *(table for _, table in rules)])
        #: The tables that there are, by name.
        self.tables = {
            name: Table(name, COLUMNS, COLUMNS.index("event_id"), COLUMNS.index("occurred_at"))
            for name in names
        }

    def sort(self, rows: list[Row]) -> dict[str, list[Row]]:
        """The rows by the name of their table."""
        if not self._rules:
            return {EVENTS: rows}
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            found[self.of(row[1])].append(row)
        return found

    def of(self, type: str) -> str:
        """The name of the table for a type."""
        for pattern, table in self._rules:
            beginning = pattern.removesuffix("*")
            if type == pattern or (beginning != pattern and type.startswith(beginning)):
                return table
        return EVENTS


_destinations = Destinations(_settings.tables)


@job_actor(
    "event.record",
    schema=Annotated[list[Event], BeforeValidator(_one_or_many), Field(min_length=1), _OneOrMany()],
    worker=_settings,
    batch_size=_settings.batch_size,
    batch_wait=_settings.batch_wait,
    at_send=complete,
    throttle=clickhouse_throttle,
)
def record_events(jobs: list[Job[list[Event]]]) -> None:
    """Insert the events of all jobs, a block a table; of a refused block, find the refused job."""
    blocks: defaultdict[str, dict[int, list[Row]]] = defaultdict(dict)  # by table and job
    failures: dict[int, BaseException] = {}
    for index, job in enumerate(jobs):
        try:
            for name, rows in _destinations.sort(_rows(job)).items():
                blocks[name][index] = rows
        except InvalidJob as error:
            failures[index] = error
    away: dict[str, SinkTransient] = {}
    for name, block in blocks.items():
        try:
            refused = insert(clickhouse(), _destinations.tables[name], list(block.values()))
        except SinkTransient as error:
            away[name] = error
        else:
            owners = list(block)
            failures |= {owners[index]: why for index, why in refused.items()}
    if away and len(away) == len(blocks):
        raise next(iter(away.values()))  # the batch stays as it is, for all of it is to come
    for name, why in away.items():
        failures |= dict.fromkeys(blocks[name], why)
    if failures:
        raise PartsFailed(failures)
