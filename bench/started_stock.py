"""The job of bench/started.py for Dramatiq with its own brokers: makes one system call.

Run as a program, sends the jobs.
"""

from __future__ import annotations

import json
import os
from typing import Any

import dramatiq

_url = os.environ["BENCH_URL"]
if _url.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=_url))
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    dramatiq.set_broker(RabbitmqBroker(url=_url))
_done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@dramatiq.actor(queue_name=os.environ["BENCH_QUEUE"])
def job(**_: Any) -> None:
    """Add one byte to the file whose size is the number of jobs that have run."""
    os.write(_done, b".")


if __name__ == "__main__":
    arguments = json.loads(os.environ["BENCH_JOB"])
    for _ in range(int(os.environ["BENCH_COUNT"])):
        job.send(**arguments)
