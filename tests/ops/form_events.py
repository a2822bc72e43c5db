"""Sample events of people who fill in forms, including anomalies, and their expected statistics.

The statistics are computed in Python, event by event, independently of the SQL of the package.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from formrelay.sinks.clickhouse import ClickHouse

FORM = "signup"
STARTED = ("form_started", "field_answered")
USUAL: tuple[tuple[str, ...], ...] = (("form_viewed",), STARTED, ("form_submitted",))
FIELDS = ("email", 'it\'s "quoted" \\ é☃', "company", "budget", "[bold]phone", "notes")
#: As `now() - INTERVAL 30 DAY` in the queries. No event is within a day of its start.
DAYS = 30


@dataclass(frozen=True)
class Happened:
    type: str
    at: datetime
    session: str = ""
    submission: str = ""
    form: str = FORM
    properties: dict[str, Any] = field(default_factory=dict)
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def who(self) -> str:
        return self.session or self.submission or str(self.id)


def make(now: datetime, *, seed: int = 7) -> list[Happened]:
    """About two hundred sessions, at whole seconds, since old ClickHouse stores no others."""
    chance = random.Random(seed)
    now = now.replace(microsecond=0)
    found: list[Happened] = []
    for number in range(160):
        begin = now - timedelta(seconds=chance.randrange(2 * 3_600, 28 * 86_400))
        found += _session(chance, f"s{number}", begin)
    return found + _odd_ones(now, chance)


def _session(chance: random.Random, session: str, begin: datetime) -> list[Happened]:
    """Events of an ordinary session, up to the step at which the person leaves."""
    found = [Happened("form_viewed", begin, session)]
    if chance.random() < 0.3:
        return found
    # Often in the same second as the view.
    at = begin + timedelta(seconds=chance.randrange(3))
    if chance.random() < 0.8:  # forms may omit it
        found.append(Happened("form_started", at, session))
    for name in FIELDS:
        if chance.random() < 0.12:
            return found
        if chance.random() < 0.2:  # no answer
            continue
        at += timedelta(seconds=chance.randrange(1, 50))
        said = {"field": name, "value": {"field": "of the answer's own"}}
        found.append(Happened("field_answered", at, session, properties=said))
        found.append(Happened("field_focused", at, session, properties={"field": "no answer"}))
    at += timedelta(seconds=chance.randrange(5))
    found.append(Happened("form_submitted", at, session, submission=f"of {session}"))
    return found


def _odd_ones(now: datetime, chance: random.Random) -> list[Happened]:
    def ago(hours: float, **more: Any) -> dict[str, Any]:
        return {"at": now - timedelta(hours=hours), **more}

    found = [
        # In the wrong order, then in the right order.
        *(Happened("form_submitted", **ago(50, session=f"back{n}")) for n in range(4)),
        *(Happened("form_started", **ago(49, session=f"back{n}")) for n in range(4)),
        *(Happened("form_viewed", **ago(48, session=f"back{n}")) for n in range(4)),
        *(
            Happened(kind, **ago(47, session="back0"))
            for kind in ("form_started", "form_submitted")
        ),
        # Submitted before it was started.
        *(
            Happened(kind, **ago(35 - n, session="rash"))
            for n, kind in enumerate(("form_viewed", "form_submitted", "form_started"))
        ),
        # Without a session; without session and submission.
        *(
            Happened(kind, **ago(30, submission="sub1"))
            for kind in ("form_viewed", "form_submitted")
        ),
        *(Happened("form_viewed", **ago(30 + n, submission="sub2")) for n in (2, 3)),
        *_hasty(ago(31, submission="sub2"), ("email", "company"), is_sent=True),
        *_hasty(ago(32, submission="sub3"), ("budget", "company"), is_sent=False),
        Happened("field_answered", **ago(33), properties={"field": "budget"}),
        *(Happened("form_viewed", **ago(30 + n)) for n in range(5)),
        *(Happened("form_submitted", **ago(40 + n)) for n in range(3)),
        # Completed on a day without a view of the form.
        Happened("form_submitted", **ago(29 * 24 + 4, session="unseen")),
        # Viewed and completed several times; across midnight; an answer without a field name.
        *(Happened("form_viewed", **ago(90 - n, session="again")) for n in range(3)),
        Happened("field_answered", **ago(88.5, session="again"), properties={"field": "email"}),
        *(Happened("form_submitted", **ago(80 - n, session="again")) for n in range(3)),
        Happened("form_viewed", **ago(200, session="long")),
        Happened("field_answered", **ago(160, session="long"), properties={"field": "budget"}),
        Happened("form_viewed", **ago(60, session="nameless")),
        Happened("field_answered", **ago(59, session="nameless"), properties={"other": 1}),
        # System events, events of another form, and events before the period.
        Happened("webhook.endpoint_disabled", **ago(20)),
        *(Happened("form_viewed", **ago(20 + n, session="s1", form="other")) for n in range(9)),
        Happened("form_submitted", **ago(10, session="s1", form="other")),
        Happened("form_viewed", **ago(16, session="o1", form="other")),
        *_hasty(ago(15, session="o1", form="other"), ("email",), is_sent=True),
        *_hasty(ago(15, session="o2", form="other"), ("email",), is_sent=False),
        *(Happened("form_viewed", **ago(40 * 24 + n, session=f"old{n}")) for n in range(6)),
        *_hasty(ago(40 * 24, session="old6"), ("email",), is_sent=True),
        *_hasty(ago(40 * 24, session="old7"), ("email",), is_sent=False),
        Happened("form_viewed", **ago(40 * 24, session="old", form="forgotten")),
    ]
    chance.shuffle(found)
    return found


def _hasty(common: dict[str, Any], names: Sequence[str], *, is_sent: bool) -> list[Happened]:
    """A session with an answer each second, without a view."""
    at = common.pop("at")
    kinds: list[tuple[str, dict[str, Any]]]
    kinds = [("field_answered", {"field": name}) for name in names]
    kinds += [("form_submitted", {})] if is_sent else []
    return [
        Happened(kind, at + timedelta(seconds=number), **common, properties=properties)
        for number, (kind, properties) in enumerate(kinds)
    ]


def insert(client: ClickHouse, events: Sequence[Happened]) -> None:
    """Insert all events, and a fifth of them again, as after a kill of a worker."""
    for part in (events, [replace(one) for one in events[::5]]):
        columns = {
            "event_id": [one.id for one in part],
            "type": [one.type for one in part],
            "form_id": [one.form for one in part],
            "submission_id": [one.submission for one in part],
            "session_id": [one.session for one in part],
            "occurred_at": [one.at for one in part],
            "properties": [orjson.dumps(one.properties).decode() for one in part],
        }
        client.insert("events", tuple(columns), list(columns.values()))


def sessions(
    events: Iterable[Happened], form: str, since: datetime, kinds: Collection[str]
) -> dict[str, list[Happened]]:
    """Session -> its events of the given kinds, earliest first."""
    found: defaultdict[str, list[Happened]] = defaultdict(list)
    for one in sorted(events, key=lambda one: one.at):
        if one.form == form and one.at >= since and one.type in kinds:
            found[one.who].append(one)
    return found


def times(session: Sequence[Happened], steps: Sequence[Collection[str]]) -> list[datetime]:
    """Times at which a session reached each step in order, up to its last step."""
    found: list[datetime] = []
    for kinds in steps:
        later = [
            one.at for one in session if one.type in kinds and (not found or one.at >= found[-1])
        ]
        if not later:
            break
        found.append(min(later))
    return found


def quantile(values: Iterable[float], level: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(level * len(ordered)))]


class Expected:
    """Expected statistics of a form."""

    def __init__(self, events: Iterable[Happened], now: datetime, form: str = FORM) -> None:
        self.steps = USUAL
        kinds = {kind for step in USUAL for kind in step}
        self.sessions = sessions(events, form, now - timedelta(days=DAYS), kinds)
        self.times = {who: times(its, USUAL) for who, its in self.sessions.items()}

    def funnel(self) -> list[int]:
        return [sum(len(took) > step for took in self.times.values()) for step in range(3)]

    def outside(self) -> list[int]:
        return [
            sum(
                len(self.times[who]) <= index and any(one.type in kinds for one in its)
                for who, its in self.sessions.items()
            )
            for index, kinds in enumerate(USUAL)
        ]

    def seconds(self, first: int) -> list[float]:
        """Durations from a step to the last, of sessions that took all steps."""
        return [
            (took[-1] - took[first]).total_seconds()
            for took in self.times.values()
            if len(took) == len(USUAL)
        ]

    def seconds_of_start(self) -> list[float]:
        """Durations from start to completion, with or without a view."""
        took = [times(its, USUAL[1:]) for its in self.sessions.values()]
        return [(both[1] - both[0]).total_seconds() for both in took if len(both) == 2]

    def left(self) -> dict[str, list[Happened]]:
        """Sessions without a completion."""
        return {
            who: its
            for who, its in self.sessions.items()
            if not any(one.type == "form_submitted" for one in its)
        }

    def fields(self) -> list[tuple[str, int, int]]:
        """(name, sessions that left after it, sessions that answered it) for each field."""
        answered: defaultdict[str, int] = defaultdict(int)
        left: defaultdict[str, int] = defaultdict(int)
        leavers = self.left()
        for who, its in self.sessions.items():
            names = [one.properties.get("field", "") for one in its if one.type == "field_answered"]
            for name in set(names):
                answered[name] += 1
            if names and who in leavers:
                left[names[-1]] += 1
        found = [(name, left[name], count) for name, count in answered.items()]
        return sorted(found, key=lambda one: (-one[1], one[0].encode()))

    def days(self) -> list[tuple[date, int, int, int, float | None]]:
        by_day: defaultdict[date, list[tuple[bool, ...]]] = defaultdict(list)
        for its in self.sessions.values():
            has = tuple(any(one.type in kinds for one in its) for kinds in USUAL)
            by_day[its[0].at.astimezone(UTC).date()].append(has)
        found = []
        for day, several in sorted(by_day.items()):
            views, starts, completions = (sum(has[step] for has in several) for step in range(3))
            both = sum(has[0] and has[2] for has in several)
            percent = round(100 * both / views, 1) if views else None
            found.append((day, views, starts, completions, percent))
        return found
