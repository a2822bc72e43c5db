"""Uses actors for the first time in many threads at once, in a fresh process.

Prints JSON with three counts: uses for which the broker knew the actor, declarations of each
actor, and instances of each middleware class.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from threading import Barrier, Thread
from typing import Any

import dramatiq

from formrelay import actors
from formrelay.brokers import get_broker

THREADS = 16


class Counting(dramatiq.Middleware):
    """Counts the declarations of each actor, and delays them so that threads overlap."""

    def __init__(self) -> None:
        self.declared: Counter[str] = Counter()

    def before_declare_actor(
        self, broker: dramatiq.Broker, actor: dramatiq.Actor[..., Any]
    ) -> None:
        time.sleep(0.05)

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[..., Any]) -> None:
        self.declared[actor.actor_name] += 1


def main() -> None:
    """Use each actor in every thread."""
    broker = get_broker()
    counting = Counting()
    broker.add_middleware(counting)
    used = [actors.deliver_webhook, actors.record_events, actors.save_submission]
    start, found = Barrier(THREADS), list[bool]()

    def use(number: int) -> None:
        start.wait()
        for place in range(len(used)):
            actor = used[(number + place) % len(used)]
            message = actor.message_of({})
            found.append(broker.actors.get(message.actor_name) is actor)

    threads = [Thread(target=use, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    added = Counter(type(middleware).__name__ for middleware in broker.middleware)
    print(json.dumps({"uses": sum(found), "declared": counting.declared, "added": added}))


main()
