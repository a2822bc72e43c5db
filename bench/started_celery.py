"""The job of bench/started.py for Celery: makes one system call.

Run as a program, sends the jobs.
"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

app = Celery("started_celery", broker=os.environ["BENCH_URL"])
app.conf.task_default_queue = os.environ["BENCH_QUEUE"]
app.conf.task_ignore_result = True
_done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND)


@app.task(name="job")
def job(**_: Any) -> None:
    """Add one byte to the file whose size is the number of jobs that have run."""
    os.write(_done, b".")


if __name__ == "__main__":
    arguments = json.loads(os.environ["BENCH_JOB"])
    with app.connection_for_write() as connection, connection.channel() as channel:
        producer = app.amqp.Producer(channel)
        for _ in range(int(os.environ["BENCH_COUNT"])):
            job.apply_async(kwargs=arguments, producer=producer)
