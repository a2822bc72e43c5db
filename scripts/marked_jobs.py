"""Sends jobs of every actor with marked values, for scripts/prove-privacy: succeeding and failing.

marked_jobs.py URL: the address of the server of tests/support/echo_site.py; the values by name are
JSON on standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from formrelay.brokers import get_broker
from formrelay.core.errors import FormrelayError
from tests.support.marked_payloads import bad, good


def main() -> None:
    """Send all jobs; print the errors of jobs that are refused."""
    url, values = sys.argv[1], json.loads(sys.stdin.read())
    for actor, payload in [*good(url, values), *bad(values), *own_jobs(values)]:
        try:
            actor.send(payload=payload)
        except FormrelayError as error:
            print(f"{actor.actor_name}: {error!r}: {error}")
    send_raw(values)


def own_jobs(values: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """Yield jobs of actors of one's own, which fail with values in their errors."""
    dramatiq.set_broker(get_broker())  # before these actors are declared
    from tests.support import marked_actors as own

    payload = {"answer": values["answer"], "mail": values["address"]}
    for actor in (own.raises, own.raises_later, own.raises_in_a_thread, own.dies):
        yield actor, payload


def send_raw(values: dict[str, str]) -> None:
    """Put bytes and messages on the queues that no schema has checked, as other programs may."""
    from formrelay.brokers.redis.broker import RedisBroker

    broker = get_broker()
    text = json.dumps(values)
    if not isinstance(broker, RedisBroker):
        return
    for number, queue in enumerate(("webhooks", "submissions", "events", "emails", "sheets")):
        jobs = [
            text.encode() + b"\xff",
            json.dumps({"type": values["answer"], "payload": values}).encode(),
            json.dumps({"type": "webhook.deliver", "payload": [values]}).encode(),
        ]
        message = {
            "queue_name": queue,
            "actor_name": ("deliver_webhook", "save_submission", "record_events", "send_email")[
                number % 4
            ],
            "args": [values],
            "kwargs": {"payload": values, "other": values["answer"]},
            "options": {},
            "message_id": f"raw-{number}",
            "message_timestamp": 1,
        }
        broker.client.rpush(broker.keys.inbox(queue), *jobs, json.dumps(message))


if __name__ == "__main__":
    main()
