"""How far the sessions of a form came: questions to ClickHouse, and their answers.

A session is what ``sessionId`` says. An event without one counts with its submission, and one
without either stands for itself: so nothing is left out, and what cannot be connected is seen
to be so (:attr:`StepCount.outside`) instead of being guessed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..sinks.clickhouse import ClickHouse

SESSION = (
    "multiIf(session_id != '', session_id, submission_id != '', submission_id, toString(event_id))"
)
#: The type of an event that says that a field was answered, and the property that names the field.
ANSWERED, FIELD = "field_answered", "field"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a funnel: an event of any of these types."""

    name: str
    types: tuple[str, ...]


def usual_steps(answered: str = ANSWERED) -> tuple[Step, ...]:
    """The steps of a form that is not said to have others.

    Who answers a field has started, so a form need not say so with an event of its own.
    """
    return (
        Step("viewed", ("form_viewed",)),
        Step("started", ("form_started", answered)),
        Step("completed", ("form_submitted",)),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        since: Unix seconds; events before do not count.
        steps: two or more; no type is in two of them.
        answered, property: as :data:`ANSWERED` and :data:`FIELD`.
    """

    form_id: str
    since: int
    steps: Sequence[Step] = field(default_factory=usual_steps)
    answered: str = ANSWERED
    property: str = FIELD


@dataclass(frozen=True, slots=True)
class StepCount:
    """How many sessions took a step.

    Attributes:
        sessions: that took it after all the steps before it, in their order.
        outside: that have an event of it and are not among ``sessions``.
    """

    step: Step
    sessions: int
    outside: int


@dataclass(frozen=True, slots=True)
class FieldCount:
    """A field, and who left after it.

    Attributes:
        name: empty where the events do not tell.
        answered: sessions that answered it.
        left: of these, the ones that did not complete and answered no other field later.
    """

    name: str
    answered: int
    left: int


@dataclass(frozen=True, slots=True)
class Duration:
    """How long the sessions that completed took from one step to the last, in seconds."""

    step: Step
    sessions: int
    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Funnel:
    """The answer.

    Attributes:
        not_completed: sessions without any event of the last step.
        unanswered: of these, the ones that answered no field.
        fields: those after which most left come first.
        durations: one for each step but the last; none where nobody completed.
    """

    question: Question
    steps: Sequence[StepCount]
    not_completed: int
    unanswered: int
    fields: Sequence[FieldCount]
    durations: Sequence[Duration]


@dataclass(frozen=True, slots=True)
class TypeCount:
    """A type of a form's events: how many there are since then, and when the last one was."""

    type: str
    events: int
    last: float


def types_of(client: ClickHouse, form_id: str, since: int) -> list[TypeCount]:
    """Every type of event that a form has ever had, the most frequent since ``since`` first.

    Raises:
        SinkError: ClickHouse is away, or has no such table.
    """
    rows = client.query(
        "SELECT type, countIf(occurred_at >= toDateTime(%(since)s)) AS events, "
        "max(toFloat64(occurred_at)) FROM events_once WHERE form_id = %(form)s "
        "GROUP BY type ORDER BY events DESC, type",
        {"form": form_id, "since": since},
    )
    return [TypeCount(str(kind), int(events), float(last)) for kind, events, last in rows]


def busiest_forms(client: ClickHouse, limit: int) -> list[str]:
    """The forms with the most events, for who named one that has none."""
    rows = client.query(
        "SELECT form_id FROM events_once GROUP BY form_id ORDER BY count() DESC, form_id "
        "LIMIT %(limit)s",
        {"limit": limit},
    )
    return [str(form_id) for (form_id,) in rows]


def ask(client: ClickHouse, question: Question) -> Funnel:
    """Count.

    Raises:
        SinkError: ClickHouse is away, or has no such table.
    """
    (row,) = client.query(_steps_sql(question), _params(question))
    values = iter(row)
    steps = [StepCount(step, int(next(values)), int(next(values))) for step in question.steps]
    not_completed, unanswered = int(next(values)), int(next(values))
    durations = [
        Duration(step, steps[-1].sessions, *(round(float(seconds), 3) for seconds in next(values)))
        for step in (question.steps[:-1] if steps[-1].sessions else ())
    ]
    names = "JSONExtractString" if client.version() >= (20, 1) else "visitParamExtractString"
    found = client.query(_fields_sql(names), _params(question))
    fields = [FieldCount(str(name), int(answered), int(left)) for name, answered, left in found]
    return Funnel(question, steps, not_completed, unanswered, fields, durations)


def _params(question: Question) -> dict[str, Any]:
    of_steps = {f"step_{index}": step.types for index, step in enumerate(question.steps)}
    counted = {question.answered, *(kind for step in question.steps for kind in step.types)}
    return of_steps | {
        "form": question.form_id,
        "since": question.since,
        "answered": question.answered,
        "property": question.property,
        "completed": question.steps[-1].types,
        # Others (webhook.endpoint_disabled, say) are not of people who fill in the form.
        "counted": tuple(sorted(counted)),
    }


_COUNTED = (
    "FROM events_once WHERE form_id = %(form)s AND occurred_at >= toDateTime(%(since)s) "
    "AND type IN %(counted)s"
)


def _steps_sql(question: Question) -> str:
    """Of each session, when it took each step; then how many took it."""
    count = len(question.steps)
    return (
        f"SELECT {', '.join(_outer(count))} FROM ("  # noqa: S608 - our own names
        f"SELECT {', '.join(_inner(count))} {_COUNTED} GROUP BY {SESSION})"
    )


def _inner(count: int) -> Iterator[str]:
    for step in range(count):
        yield f"groupArrayIf(toFloat64(occurred_at), type IN %(step_{step})s) AS times_{step}"
        # The first time at which the step before was taken; 0 is never: the least of no times
        # is 0, and no event is as old. Within one moment the order is that of the steps, for
        # ClickHouse 18.16 keeps whole seconds.
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
    """Of each session its fields and the last of them; then, by field, how many left there."""
    return (
        "SELECT field, count() AS answered, "  # noqa: S608 - our own names
        "countIf((completions = 0) AND (field = last)) AS left_here "
        "FROM (SELECT groupUniqArrayIf(field, type = %(answered)s) AS fields, "
        # By id where two are of one moment, so that two runs say the same.
        "argMaxIf(field, concat(toString(occurred_at), toString(event_id)), type = %(answered)s) "
        "AS last, countIf(type IN %(completed)s) AS completions "
        f"FROM (SELECT *, {extract}(properties, %(property)s) AS field, {SESSION} AS session "
        f"{_COUNTED}) GROUP BY session) "
        "ARRAY JOIN fields AS field GROUP BY field ORDER BY left_here DESC, answered DESC, field"
    )
