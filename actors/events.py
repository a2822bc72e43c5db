"""``event.record``: analytics events into ClickHouse, many messages a block."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from pydantic import AwareDatetime, BeforeValidator, Field, GetJsonSchemaHandler, JsonValue
from pydantic_core import CoreSchema

from ..config import get_settings
from ..core.errors import PartsFailed
from .blocks import Row, insert
from .job import job_actor
from .model import OFFSET, Job, JobModel
from .sinks import clickhouse

TABLE = "events"
COLUMNS = (
    "event_id",
    "type",
    "form_id",
    "submission_id",
    "session_id",
    "occurred_at",
    "properties",
)


_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2106, 1, 1, tzinfo=UTC)


class Event(JobModel):
    """One thing that happened to a form."""

    event_id: UUID = Field(
        default_factory=uuid4,
        description="Known by it, an event that is sent twice counts once. Made in Python when "
        "it is sent, of another publisher's job each time it is run: so that publisher gives one.",
    )
    type: str = Field(min_length=1, max_length=200, description="What happened: form_viewed.")
    form_id: str = Field(min_length=1, max_length=200)
    submission_id: str | None = None
    session_id: str | None = None
    # The years that every ClickHouse's DateTime holds. Beyond them, a time with an offset
    # may have none in UTC, and one such event would fail the block of all others.
    occurred_at: AwareDatetime = Field(
        default_factory=lambda: datetime.now(UTC),
        ge=_EARLIEST,
        lt=_LATEST,
        description="ISO 8601 with an offset, from 1971 to 2104; now where there is none.",
        json_schema_extra={"pattern": f"^(197[1-9]|19[89][0-9]|20[0-9]{{2}}|210[0-4])-.*{OFFSET}"},
    )
    properties: dict[str, JsonValue] = Field(
        default_factory=dict, description="Whatever else there is to say; kept as JSON text."
    )


def to_row(event: Event) -> Row:
    """The values of :data:`COLUMNS`."""
    return (
        event.event_id,
        event.type,
        event.form_id,
        event.submission_id or "",
        event.session_id or "",
        event.occurred_at.astimezone(UTC),
        orjson.dumps(event.properties).decode(),
    )


def _one_or_many(payload: Any) -> Any:
    return payload if isinstance(payload, list) else [payload]


class _OneOrMany:
    """What :func:`_one_or_many` takes, for the JSON Schema."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


_settings = get_settings().events


@job_actor(
    "event.record",
    schema=Annotated[list[Event], BeforeValidator(_one_or_many), Field(min_length=1), _OneOrMany()],
    worker=_settings,
    batch_size=_settings.batch_size,
    batch_wait=_settings.batch_wait,
)
def record_events(jobs: list[Job[list[Event]]]) -> None:
    """Insert the events of all jobs as one block; of a refused block, find the refused job."""
    blocks = [[to_row(event) for event in job.payload] for job in jobs]
    failures = insert(clickhouse(), TABLE, COLUMNS, blocks)
    if failures:
        raise PartsFailed(failures)
