"""The funnel of a form, counted by ClickHouse.

Events with the same ``sessionId`` form a session. Without it, events with the same
``submissionId`` form a session; an event with neither is a session by itself. So every event
counts, and sessions with missing steps are counted separately (:attr:`StepCount.outside`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sinks.clickhouse import ClickHouse

SESSION = (
    "multiIf(session_id != '', session_id, submission_id != '', submission_id, toString(event_id))"
)
#: Event type of an answered field, and its property that holds the name of the field.
ANSWERED, FIELD = "field_answered", "field"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel: an event of any of ``types``."""

    name: str
    types: tuple[str, ...]


def default_steps(answered: str = ANSWERED) -> tuple[Step, ...]:
    """Return the default steps of a funnel.

    An answered field also counts as started, so a form need not send ``form_started``.
    """
    return (
        Step("viewed", ("form_viewed",)),
        Step("started", ("form_started", answered)),
        Step("completed", ("form_submitted",)),
    )


@dataclass(frozen=True, slots=True)
class FunnelQuery:
    """The form, the period and the steps of a funnel.

    Attributes:
        since: Unix seconds; earlier events do not count.
        steps: two or more steps without a common type.
        answered, property: see :data:`ANSWERED` and :data:`FIELD`.
    """

    form_id: str
    since: int
    steps: Sequence[Step] = field(default_factory=default_steps)
    answered: str = ANSWERED
    property: str = FIELD


@dataclass(frozen=True, slots=True)
class StepCount:
    """The number of sessions that took a step.

    Attributes:
        sessions: sessions that took the step after all earlier steps, in order.
        outside: sessions with an event of the step, but without every earlier step.
    """

    step: Step
    sessions: int
    outside: int


@dataclass(frozen=True, slots=True)
class FieldCount:
    """The number of sessions that answered a field, and that left after it.

    Attributes:
        name: empty if the events do not name the field.
        answered: sessions that answered the field.
        left: sessions that answered the field last and did not complete the form.
    """

    name: str
    answered: int
    left: int


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds from a step to the last step, over the sessions that completed."""

    step: Step
    sessions: int
    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Funnel:
    """The counts of a funnel.

    Attributes:
        not_completed: sessions without an event of the last step.
        unanswered: sessions that neither completed nor answered a field.
        fields: fields, sorted by the number of sessions that left after them.
        durations: one for each step but the last; empty if no session completed.
    """

    query: FunnelQuery
    steps: Sequence[StepCount]
    not_completed: int
    unanswered: int
    fields: Sequence[FieldCount]
    durations: Sequence[Duration]


@dataclass(frozen=True, slots=True)
class TypeCount:
    """An event type of a form: number of events in the period, and the time of the last event."""

    type: str
    events: int
    last: float


def types_of(client: ClickHouse, form_id: str, since: int) -> list[TypeCount]:
    """Return all event types of a form, the most frequent since ``since`` first.

    Raises:
        SinkError: ClickHouse is unavailable, or has no such table.
    """
    rows = client.query(
        "SELECT type, countIf(occurred_at >= toDateTime(%(since)s)) AS events, "
        "max(toFloat64(occurred_at)) FROM events_once WHERE form_id = %(form)s "
        "GROUP BY type ORDER BY events DESC, type",
        {"form": form_id, "since": since},
    )
    return [TypeCount(str(kind), int(events), float(last)) for kind, events, last in rows]


def busiest_forms(client: ClickHouse, limit: int) -> list[str]:
    """Return the forms with the most events."""
    rows = client.query(
        "SELECT form_id FROM events_once GROUP BY form_id ORDER BY count() DESC, form_id "
        "LIMIT %(limit)s",
        {"limit": limit},
    )
    return [str(form_id) for (form_id,) in rows]


def count_funnel(client: ClickHouse, query: FunnelQuery) -> Funnel:
    """Count the funnel.

    Raises:
        SinkError: ClickHouse is unavailable, or has no such table.
    """
    (row,) = client.query(_steps_sql(query), _params(query))
    values = iter(row)
    steps = [StepCount(step, int(next(values)), int(next(values))) for step in query.steps]
    not_completed, unanswered = int(next(values)), int(next(values))
    durations = [
        Duration(step, steps[-1].sessions, *(round(float(seconds), 3) for seconds in next(values)))
        for step in (query.steps[:-1] if steps[-1].sessions else ())
    ]
    names = "JSONExtractString" if client.version() >= (20, 1) else "visitParamExtractString"
    found = client.query(_fields_sql(names), _params(query))
    fields = [FieldCount(str(name), int(answered), int(left)) for name, answered, left in found]
    return Funnel(query, steps, not_completed, unanswered, fields, durations)


def _params(query: FunnelQuery) -> dict[str, Any]:
    step_types = {f"step_{index}": step.types for index, step in enumerate(query.steps)}
    counted = {query.answered, *(kind for step in query.steps for kind in step.types)}
    return step_types | {
        "form": query.form_id,
        "since": query.since,
        "answered": query.answered,
        "property": query.property,
        "completed": query.steps[-1].types,
        # Leaves out events of other origin, such as webhook.endpoint_disabled.
        "counted": tuple(sorted(counted)),
    }


_COUNTED = (
    "FROM events_once WHERE form_id = %(form)s AND occurred_at >= toDateTime(%(since)s) "
    "AND type IN %(counted)s"
)


def _steps_sql(query: FunnelQuery) -> str:
    """Find when each session took each step, then count the sessions by step."""
    count = len(query.steps)
    return (
        f"SELECT {', '.join(_outer(count))} FROM ("  # noqa: S608 - our own names
        f"SELECT {', '.join(_inner(count))} {_COUNTED} GROUP BY {SESSION})"
    )


def _inner(count: int) -> Iterator[str]:
    for step in range(count):
        yield f"groupArrayIf(toFloat64(occurred_at), type IN %(step_{step})s) AS times_{step}"
        # The first time of the step at or after the previous step. 0 means never, because the
        # minimum of an empty array is 0. Equal times count as in order, because ClickHouse 18.16
        # stores whole seconds.
        yield f"arrayReduce('min', {_after(step)}) AS at_{step}"
    yield "countIf(type IN %(completed)s) AS completions"
    yield "countIf(type = %(answered)s) AS answers"


def _after(step: int) -> str:
    if step == 0:
        return "times_0"
    before = f"at_{step - 1}"
    return f"arrayFilter(t -> ({before} > 0) AND (t >= {before}), times_{step})"


def _outer(count: int) -> Iterator[str]:
    for step in range(count):
        yield f"countIf(at_{step} > 0)"
        yield f"countIf((at_{step} = 0) AND (length(times_{step}) > 0))"
    yield "countIf(completions = 0)"
    yield "countIf((completions = 0) AND (answers = 0))"
    last = f"at_{count - 1}"
    for step in range(count - 1):
        yield f"quantilesExactIf(0.5, 0.9)({last} - at_{step}, {last} > 0)"


def _fields_sql(extract: str) -> str:
    """Find the fields and the last field of each session, then count by field."""
    return (
        "SELECT field, count() AS answered, "  # noqa: S608 - our own names
        "countIf((completions = 0) AND (field = last)) AS left_here "
        "FROM (SELECT groupUniqArrayIf(field, type = %(answered)s) AS fields, "
        # Equal times are sorted by event id, so that the result is stable.
        "argMaxIf(field, concat(toString(occurred_at), toString(event_id)), type = %(answered)s) "
        "AS last, countIf(type IN %(completed)s) AS completions "
        f"FROM (SELECT *, {extract}(properties, %(property)s) AS field, {SESSION} AS session "
        f"{_COUNTED}) GROUP BY session) "
        "ARRAY JOIN fields AS field GROUP BY field ORDER BY left_here DESC, answered DESC, field"
    )
