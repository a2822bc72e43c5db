"""The job of bench/started.py for formrelay: makes one system call, which also counts it.

Run as a program, sends the jobs.
"""

from __future__ import annotations

import json
import os
from typing import Any

import dramatiq

if __name__ == "__main__":
    from formrelay.brokers import get_broker

    dramatiq.set_broker(get_broker())

_done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def job(**_: Any) -> None:
    """Add one byte to the file whose size is the number of jobs that have run."""
    os.write(_done, b".")


if __name__ == "__main__":
    arguments = json.loads(os.environ["BENCH_JOB"])
    count = int(os.environ["BENCH_COUNT"])
    broker: Any = job.broker
    broker.enqueue_many(job.message_with_options(kwargs=arguments) for _ in range(count))
    broker.close()
