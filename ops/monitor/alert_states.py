"""The states of alerts: when an alert begins, is repeated, and is over. Pure functions.

::

    (none) --found--> pending --found for `for`--> firing --absent for `hold`--> (none), resolved
                         |                           |
                         +--absent--> (none)         +--every `repeat`--> repeated

A problem whose facts could not be read (its rule is unknown) changes nothing, and the time until
the next look does not count: nobody knows whether the problem lasted or was absent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from .findings import Finding

EventKind: TypeAlias = Literal["firing", "repeated", "resolved"]


class Timing(NamedTuple):
    """The times of a rule, in seconds.

    Attributes:
        lasts: how long a problem must last before an alert.
        hold: how long a problem must be absent before its alert is over.
        repeat: interval at which an alert is repeated; 0 for never.
    """

    lasts: float = 60.0
    hold: float = 300.0
    repeat: float = 14_400.0


@dataclass(frozen=True, slots=True)
class AlertState:
    """A problem that is pending or firing.

    Attributes:
        finding: the problem as it was found last.
        since: when the problem was found first.
        lasted: for how many seconds it has been found, while it is pending.
        absent: for how many seconds it has been absent.
        absent_since: when it was first absent; None if it was found in the last look.
        looked_at: time of the last look that knew.
        said_at: when it was said last; None while it is pending.
        said: how often it was said.
    """

    finding: Finding
    since: float
    looked_at: float
    lasted: float = 0.0
    absent: float = 0.0
    absent_since: float | None = None
    said_at: float | None = None
    said: int = 0

    @property
    def is_firing(self) -> bool:
        """Whether the alert was said, and is not over."""
        return self.said_at is not None

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return {
            "rule": self.finding.rule,
            "labels": [list(label) for label in self.finding.labels],
            "summary": self.finding.summary,
            **{name: getattr(self, name) for name in _TIMES},
            "said": self.said,
        }

    @classmethod
    def from_json(cls, data: Any) -> AlertState | None:
        """Read a state; None for a state that this version cannot read."""
        try:
            labels = tuple((str(name), str(value)) for name, value in data["labels"])
            found = Finding(str(data["rule"]), labels, str(data["summary"]))
            times = {
                name: None if data[name] is None else float(data[name])
                for name in _TIMES
                if data[name] is not None or name in ("absent_since", "said_at")
            }
            return cls(found, said=int(data["said"]), **times)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            return None


_TIMES = ("since", "looked_at", "lasted", "absent", "absent_since", "said_at")


class Event(NamedTuple):
    """Something to say about an alert.

    Attributes:
        ended_at: when the problem was first absent; None unless the alert is resolved.
    """

    kind: EventKind
    state: AlertState
    ended_at: float | None = None


States: TypeAlias = Mapping[str, AlertState]


def advance(
    states: States,
    findings: Iterable[Finding],
    unknown: Collection[str],
    now: float,
    timing: Mapping[str, Timing],
) -> tuple[dict[str, AlertState], list[Event]]:
    """Take the findings of one look.

    Args:
        states: the states after the last look, by the key of the finding.
        unknown: rules that could not be checked.
        now: Unix seconds, by the clock that all monitors share; a step back counts as no time.
        timing: by rule.

    Returns:
        The new states, and what to say.
    """
    found = {each.key: each for each in findings}
    following: dict[str, AlertState] = {}
    events: list[Event] = []
    for key in {**states, **found}:
        state, finding = states.get(key), found.get(key)
        if state is None:
            assert finding is not None
            state = AlertState(finding, now, now)
        elif finding is None and state.finding.rule in unknown:
            following[key] = replace(state, looked_at=now)
            continue
        times = timing.get(state.finding.rule, Timing())
        passed = max(0.0, now - state.looked_at)
        state = replace(state, looked_at=now)
        if finding is None:
            after, event = _absent(state, passed, now, times)
        else:
            after, event = _found(replace(state, finding=finding), passed, now, times)
        if after is not None:
            following[key] = after
        if event is not None:
            events.append(event)
    return following, events


def _found(
    state: AlertState, passed: float, now: float, times: Timing
) -> tuple[AlertState, Event | None]:
    if state.is_firing:
        assert state.said_at is not None
        state = replace(state, absent=0.0, absent_since=None, said_at=min(state.said_at, now))
        if not times.repeat or now - (state.said_at or 0.0) < times.repeat:
            return state, None
        return _said("repeated", state, now)
    state = replace(state, lasted=state.lasted + passed)
    return _said("firing", state, now) if state.lasted >= times.lasts else (state, None)


def _said(kind: EventKind, state: AlertState, now: float) -> tuple[AlertState, Event]:
    state = replace(state, said_at=now, said=state.said + 1)
    return state, Event(kind, state)


def _absent(
    state: AlertState, passed: float, now: float, times: Timing
) -> tuple[AlertState | None, Event | None]:
    if not state.is_firing:
        return None, None
    if state.absent_since is None:
        state = replace(state, absent_since=now)
    else:
        state = replace(state, absent=state.absent + passed)
    if state.absent >= times.hold:
        return None, Event("resolved", state, state.absent_since)
    return state, None


def states_to_json(states: States) -> list[Any]:
    """Convert states to plain JSON."""
    return [state.to_json() for state in states.values()]


def states_from_json(data: Any) -> dict[str, AlertState]:
    """Read states; states that this version cannot read are ignored."""
    read = (AlertState.from_json(each) for each in (data if isinstance(data, list) else ()))
    return {state.finding.key: state for state in read if state is not None}
