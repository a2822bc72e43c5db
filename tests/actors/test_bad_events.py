"""Invalid events: an error at ``send()``; from other publishers, only they are dead-lettered."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest

from formrelay.core.errors import FormrelayError
from tests.actors.conftest import Site
from tests.actors.test_events import AT, counted, event, plain
from tests.middleware.lines import Lines

#: Raw JSON, since some JSON encoders refuse these values.
DEEP = b'{"type":"t","formId":"f","properties":{"a":' + b"[" * 1000 + b"]" * 1000 + b"}}"
SURROGATE = b'{"type":"t","formId":"f","properties":{"a":"\\ud800"}}'


def deep() -> Any:
    value: Any = 1
    for _ in range(1000):
        value = [value]
    return value


#: Payload -> text of the error.
BAD = {
    "a bad timestamp": (event(occurredAt="yesterday"), "occurredAt"),
    "no type": ({"formId": "f"}, "type: field required"),
    "1,000 levels": (event(properties={"a": deep()}), "properties: expected JSON"),
    "a property of 2 MB": (
        event(properties={"a": "x" * 2_000_000}),
        "expected at most 1048576 bytes",
    ),
    "NUL in the type": (event(type="form\0viewed"), "payload.0.type"),
    "NUL in an id": (event(sessionId="s\0"), "payload.0.sessionId"),
    "NUL in a property": (event(properties={"a": ["b\0"]}), "without NUL characters"),
    "a lone surrogate in the type": (event(type="\ud800"), "payload.0.type"),
    "a lone surrogate in a property": (event(properties={"a": "\ud800"}), "properties"),
    "the year 1900": (event(occurredAt="1900-01-01T00:00:00Z"), "occurredAt"),
    "the year 2300": (event(occurredAt="2300-01-01T00:00:00Z"), "occurredAt"),
}


@pytest.mark.parametrize(("bad", "says"), BAD.values(), ids=BAD)
def test_an_invalid_event_is_refused_at_send(site: Site, bad: Any, says: str) -> None:
    with pytest.raises(FormrelayError) as refused:
        site.actors.record_events.send(bad)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 400
    assert site.waiting() == 0


def test_an_escaped_backslash_before_u0000_is_not_a_nul(site: Site, clickhouse_url: str) -> None:
    site.actors.record_events.send(event(properties={"a": "\\u0000", "b": "\\\\u0000"}))
    assert site.waiting("events") == 1


def foreign() -> list[bytes]:
    """The same events as other publishers may write them."""
    sendable = [
        plain(bad) for name, (bad, _) in BAD.items() if "levels" not in name and "lone" not in name
    ]
    raw = [b'{"type":"event.record","payload":' + body + b"}" for body in (DEEP, SURROGATE)]
    return [*sendable, *raw]


def test_of_ten_thousand_events_only_the_invalid_are_dead_lettered(
    site: Site,
    clickhouse_url: str,
    clickhouse_database: str,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = site.use_clickhouse(clickhouse_url, clickhouse_database)
    monkeypatch.setitem(site.broker.actors["record_events"].options, "batch_size", 10_000)
    bad = foreign()
    count = 10_000 - len(bad)
    good = [
        plain({"eventId": str(UUID(int=n + 1)), "type": "t", "formId": "f", "occurredAt": AT})
        for n in range(count)
    ]
    step = count // len(bad)
    for place, body in enumerate(bad):
        good.insert(place * step, body)
    site.inject("events", *good)
    site.work_off("events")
    assert counted(client) == (count, count, count)
    letters = site.dead("events")
    assert len(letters) == len(bad)
    # Each has its cause, and all readable events were in a batch with valid events.
    assert {letter.failure.reason.value for letter in letters} == {"invalid", "undecodable"}
    failed = [line for line in lines.attempts() if line.get("partsFailed")]
    assert sum(line["partsFailed"] for line in failed) == len(bad) - 2
    assert max(line["parts"] for line in failed) > 1_000
    kept = orjson.dumps([letter.message.asdict() for letter in letters])
    assert b"yesterday" in kept
