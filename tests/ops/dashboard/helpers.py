"""Fills the stores behind a dashboard, and reads its pages."""

from __future__ import annotations

import re
import time
from html import unescape
from typing import Any

from formrelay.core.durations import BIN_COUNT
from formrelay.state import make_history
from formrelay.state.history import Tally, duration_bin
from tests.ops.dashboard.conftest import Site

FAILURE = {
    "reason": "permanent",
    "error": "formrelay.core.errors.SinkPermanent",
    "message": "status 404",
    "at": "2026-11-01T00:00:00Z",
    "attempt": 3,
    "worker": "host:1",
    "where": ["actors/a.py:1 run"],
}
UNAVAILABLE = "formrelay.core.errors.SinkUnavailable"


def bury(
    site: Site, id: str, message: str = "no answer", *, queue: str = "webhooks", **more: Any
) -> None:
    """Write a dead letter.

    Args:
        more: ``ago``: seconds since it died; ``failure``: fields of its failure; fields of the
            message.
    """
    died = (time.time() - more.pop("ago", 1)) * 1000
    failure = {
        "reason": "permanent",
        "error": UNAVAILABLE,
        "message": message,
        "at": "2026-01-31T09:30:00Z",
        "attempt": 3,
        "worker": "host:1",
        **more.pop("failure", {}),
    }
    site.add(queue, "dead", id, options={"failure": failure}, **more)
    site.broker.client.zadd(site.broker.keys.dead(queue), {id: died})


def rows(text: str) -> list[str]:
    """The text of each row of the tables of a page, without tags."""
    found = re.findall(r"<tr\b.*?</tr>", text, re.DOTALL)
    return [" ".join(unescape(re.sub(r"<[^>]*>", " ", row)).split()) for row in found[1:]]


def field(text: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)">', text)
    assert found is not None, text
    return unescape(found[1])


def fields(text: str) -> dict[str, str]:
    """The hidden fields of the form that starts a task."""
    form = text[text.index("/dead/start") :]
    pairs = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form)
    return {name: unescape(value) for name, value in pairs}


def add_history(site: Site, queue: str, done: int, dead: int) -> None:
    durations = [0] * BIN_COUNT
    durations[duration_bin(0.25)] = done + dead
    tally = Tally(done=done, dead=dead, durations=durations)
    make_history(site.broker.state).add({queue: tally}, source=queue, number=1)


def add_worker(site: Site, name: str, *queues: str, silent_for: float = 0) -> None:
    keys, client = site.broker.keys, site.broker.client
    client.zadd(keys.heartbeats(), {name: (client.time()[0] - silent_for) * 1000})
    client.sadd(keys.worker_queues(name), *queues)
    client.set(keys.worker_name(name), f"{name}:1")


def row(text: str, queue: str) -> dict[str, str]:
    """The cells of a queue, by the heading of their column."""
    (found,) = re.findall(rf'<tr data-key="{queue}">(.*?)</tr>', text, re.DOTALL)
    cells = re.findall(r'data-label="([^"]+)"[^>]*>(.*?)</td>', found, re.DOTALL)
    plain = {name: re.sub(r"<[^>]+>", " ", cell) for name, cell in cells}
    return {"Queue": found.split("</th>")[0], **{k: " ".join(v.split()) for k, v in plain.items()}}
