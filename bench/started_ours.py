"""The job of bench/started.py for formrelay: makes one system call, which also counts it.

Run as a program, sends the jobs.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import dramatiq

if __name__ == "__main__":
    from formrelay.brokers import get_broker

    dramatiq.set_broker(get_broker())

#: Seconds for which a turn is measured, and before it, in which the lines of the last are written.
_TURN_SECONDS, _PAUSE_SECONDS = 0.25, 0.05

_done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def job(**_: Any) -> None:
    """Add one byte to the file whose size is the number of jobs that have run."""
    os.write(_done, b".")


def _take_turns(path: str) -> None:
    """Switch the log lines of attempts on and off, and write how many jobs ran in each turn."""
    lines = logging.getLogger("formrelay.workers.attempts")
    with open(path, "a", buffering=1) as turns:
        # In this order, a rate that rises or falls steadily favours none.
        for with_lines in cycle([True, False, False, True]):
            lines.setLevel(logging.NOTSET if with_lines else logging.WARNING)
            time.sleep(_PAUSE_SECONDS)
            jobs, start = os.fstat(_done).st_size, time.perf_counter()
            time.sleep(_TURN_SECONDS)
            jobs, seconds = os.fstat(_done).st_size - jobs, time.perf_counter() - start
            print(
                json.dumps({"with_lines": with_lines, "jobs": jobs, "seconds": seconds}), file=turns
            )


if os.environ["BENCH_TURNS"] and __name__ != "__main__":
    threading.Thread(target=_take_turns, args=(os.environ["BENCH_TURNS"],), daemon=True).start()


def _messages() -> Iterator[Any]:
    if not os.environ["BENCH_JOBS"]:
        arguments = json.loads(os.environ["BENCH_JOB"])
        for _ in range(int(os.environ["BENCH_COUNT"])):
            yield job.message_with_options(kwargs=arguments)
        return
    from formrelay.actors import deliver_webhook, record_events

    kinds: dict[str, Any] = {"webhooks": deliver_webhook, "events": record_events}
    with Path(os.environ["BENCH_JOBS"]).open() as lines:
        yield from (kinds[os.environ["BENCH_KIND"]].message(json.loads(line)) for line in lines)


if __name__ == "__main__":
    broker: Any = job.broker
    broker.enqueue_many(_messages())
    broker.close()
