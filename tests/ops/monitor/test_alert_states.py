"""Each alert is said once, repeated by configuration, and over when it is over."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from formrelay.ops.monitor.alert_states import (
    AlertState,
    Event,
    Timing,
    advance,
    states_from_json,
    states_to_json,
)
from formrelay.ops.monitor.findings import Finding

A, B = (Finding("queue_too_long", (("queue", name),), "") for name in "ab")
TIMING = Timing(lasts=20, hold=30, repeat=100)
TIMINGS = {"queue_too_long": TIMING}


class Look(NamedTuple):
    """A look: the seconds since the last look, and the findings; None if it saw nothing."""

    after: float
    found: frozenset[Finding] | None


looks = st.lists(
    st.builds(
        Look,
        st.sampled_from([-5.0, 1.0, 10.0, 60.0]),
        st.none() | st.frozensets(st.sampled_from([A, B])),
    ),
    max_size=40,
)


def run(looks: list[Look], *, through_json: bool = False) -> list[tuple[float, Event]]:
    """The events of these looks, each with its time."""
    states: dict[str, AlertState] = {}
    said, now = [], 1_000.0
    for look in looks:
        now += look.after
        unknown = {"queue_too_long"} if look.found is None else set()
        states, events = advance(states, look.found or (), unknown, now, TIMINGS)
        if through_json:
            states = states_from_json(json.loads(json.dumps(states_to_json(states))))
        said += [(now, event) for event in events]
    return said


@given(looks)
def test_events_of_an_alert_come_in_order_and_never_too_early(looks: list[Look]) -> None:
    for finding in (A, B):
        mine = [(at, e.kind) for at, e in run(looks) if e.state.finding.key == finding.key]
        kinds = [kind for _, kind in mine]
        for before, after in pairwise(["resolved", *kinds]):
            assert (after == "firing") == (before == "resolved")
        for (before_at, _), (at, kind) in pairwise(mine):
            if kind == "repeated":
                assert at - before_at >= TIMING.repeat


@given(looks)
def test_an_alert_follows_from_what_was_seen_alone(looks: list[Look]) -> None:
    """A second, simpler account of one problem: seconds found, and seconds absent, in a row."""
    lasted = absent = 0.0
    was_found = was_absent = fires = False
    expected = []
    for look in looks:
        passed = max(0.0, look.after)
        if look.found is None:
            continue
        is_found = A in look.found
        if not fires:
            lasted = (lasted + passed) if is_found and was_found else 0.0
            if is_found and lasted >= TIMING.lasts:
                fires, absent, was_absent = True, 0.0, False
                expected.append("firing")
        elif is_found:
            absent, was_absent = 0.0, False
        else:
            absent = absent + passed if was_absent else 0.0
            was_absent = True
            if absent >= TIMING.hold:
                fires, lasted = False, 0.0
                expected.append("resolved")
        was_found = is_found
    found = [e.kind for _, e in run(looks) if e.state.finding == A and e.kind != "repeated"]
    assert found == expected


@given(looks)
def test_another_monitor_continues_from_the_store_as_if_nothing_had_happened(
    looks: list[Look],
) -> None:
    assert run(looks, through_json=True) == run(looks)


def test_an_alert_that_lasts_is_repeated_and_its_end_says_when_the_problem_went() -> None:
    looks = [Look(10, frozenset({A})) for _ in range(14)] + [Look(10, frozenset())] * 4
    said = run(looks)
    assert [(at - 1_010, event.kind) for at, event in said] == [
        (20, "firing"),
        (120, "repeated"),
        (170, "resolved"),
    ]
    assert said[-1][1].ended_at == 1_150


def test_a_problem_that_comes_and_goes_is_one_alert() -> None:
    flapping = [Look(10, frozenset({A} if number % 2 else ())) for number in range(30)]
    begin = [Look(10, frozenset({A}))] * 3
    assert [event.kind for _, event in run([*begin, *flapping])] == ["firing", *["repeated"] * 3]


def test_a_rule_without_repeat_is_said_once() -> None:
    states: dict[str, AlertState] = {}
    said = []
    for number in range(1_000):
        once = {"queue_too_long": Timing(0, 0, repeat=0)}
        states, events = advance(states, [A], (), 1_000.0 * number, once)
        said += events
    assert [event.kind for event in said] == ["firing"]


def test_states_of_another_version_are_ignored() -> None:
    assert states_from_json([{"rule": "x"}, 5, None]) == {}
    assert states_from_json("no list") == {}
