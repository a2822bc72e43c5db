"""examples/packages/with_sentry.py: one event for each failed attempt, without personal data."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sentry_sdk.envelope import Envelope

from tests.actors.receiver import receiving
from tests.examples.packages.running import Place, worker

PERSON = "Ann Nobody"


@dataclass
class Report:
    """What Sentry got for the jobs.

    Attributes:
        events: by message id.
        others: events of no message.
        failed: ids of the jobs that failed, by actor.
    """

    events: dict[str, list[dict[str, Any]]]
    others: list[dict[str, Any]]
    failed: dict[str, str]
    bodies: bytes


@pytest.fixture(scope="module")
def report(place: Place) -> Iterator[Report]:
    """The events of a worker that ran jobs that succeed, that are deferred, and that fail."""
    with receiving() as sentry:
        dsn = f"http://key@127.0.0.1:{sentry.port}/1"
        failed = {}
        with worker(place, "with_sentry", "orders", SENTRY_DSN=dsn) as program:
            for actor in ("bill", "ship"):
                for due in (0, 0, 0, time.time() + 1):
                    place.send("orders", actor, {"name": PERSON, "total": 1, "due": due})
                failed[actor] = place.send("orders", actor, {"name": PERSON, "total": -1, "due": 0})
            program.wait_for_outcomes(done=8, dead=2)
        bodies = [_unpacked(request.headers, request.body) for request in sentry.requests]
        found = [event for body in bodies for event in _events(body)]
        by_id: dict[str, list[dict[str, Any]]] = {}
        others = []
        for event in found:
            id = event.get("extra", {}).get("dramatiq_message_id")
            others.append(event) if id is None else by_id.setdefault(id, []).append(event)
        yield Report(by_id, others, failed, b"".join(bodies))


def _unpacked(headers: dict[str, str], body: bytes) -> bytes:
    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


def _events(body: bytes) -> list[dict[str, Any]]:
    items = Envelope.deserialize(body).items
    return [item.payload.json for item in items if item.type == "event"]


def test_a_failed_job_is_one_event_and_no_other_job_is_an_event(report: Report) -> None:
    assert report.events.keys() == set(report.failed.values())
    for actor, id in report.failed.items():
        (event,) = report.events[id]
        (error,) = event["exception"]["values"]
        assert (error["type"], error["value"]) == ("ValueError", "")
        assert event["transaction"] == actor
    assert report.others == []


def test_an_event_has_neither_payload_nor_text_of_the_error(report: Report, place: Place) -> None:
    assert PERSON.encode() not in report.bodies
    place.broker.declare_queue("orders")
    texts = [letter.failure.message for letter in place.dead("orders")]
    assert texts == [f"negative total of {PERSON}"] * 2  # the dead letters have it
