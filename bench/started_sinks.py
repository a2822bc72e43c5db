"""Webhooks and events with workers as people start them, compared with BullMQ.

BullMQ's jobs do what its users would write: a webhook is signed as Standard Webhooks says and
posted on kept connections; the events of all running jobs (1,000 at a time) are inserted together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from clickhouse_driver import Client
from events import events
from started import Site
from webhooks import BODY, SECRET, ReceiverProcess, addresses

_ENDPOINTS = 100
_DATABASE = "bench_started"


def delivered(
    contender: str, *, queue: str, count: int, processes: int = 1, concurrency: int = 50
) -> Any:
    """Webhooks per second that arrive at a local receiver with 100 endpoints."""
    with ExitStack() as stack:
        site = Site(contender, queue, count, stack, processes=processes, concurrency=concurrency)
        receiver = ReceiverProcess(done=site.done)
        stack.callback(receiver.end)
        urls = addresses(receiver.url, _ENDPOINTS, 0)
        _write_jobs(
            site,
            ({"url": urls[n % _ENDPOINTS], "body": BODY, "secret": SECRET} for n in range(count)),
        )
        os.environ.update(
            BENCH_KIND="webhooks",
            FORMRELAY_IMPORTS="",
            WEBHOOK_QUEUE=queue,
            WEBHOOK_ALLOW_HTTP="true",
            WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        )
        site.start()
        return {"per_second": site.rate()}


class _EventSite(Site):
    """Events that are counted in ClickHouse."""

    every = 0.05

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        url = os.environ["FORMRELAY_TEST_CLICKHOUSE_URL"]
        self._client = Client.from_url(url)
        self._client.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
        self._client.execute(f"CREATE DATABASE {_DATABASE}")
        self._client.execute(f"USE {_DATABASE}")
        os.environ.update(
            BENCH_KIND="events",
            BENCH_CLICKHOUSE=os.environ["FORMRELAY_TEST_CLICKHOUSE_HTTP_URL"],
            FORMRELAY_IMPORTS="",
            CLICKHOUSE_URL=url,
            CLICKHOUSE_DATABASE=_DATABASE,
            EVENT_QUEUE=os.environ["BENCH_QUEUE"],
        )
        subprocess.run(
            [sys.executable, "-m", "formrelay", "migrate"], check=True, capture_output=True
        )

    def ran(self) -> int:
        ((count,),) = self._client.execute("SELECT count() FROM events")
        return int(count)


def recorded(
    contender: str, *, queue: str, count: int, processes: int = 1, concurrency: int = 1_000
) -> Any:
    """Events per second, one a message, until they are in ClickHouse."""
    with ExitStack() as stack:
        site = _EventSite(
            contender, queue, count, stack, processes=processes, concurrency=concurrency
        )
        _write_jobs(site, events(count))
        site.start()
        return {"per_second": site.rate()}


def _write_jobs(site: Site, jobs: Iterable[Any]) -> None:
    path = site.folder / "jobs"
    with path.open("w") as file:
        file.writelines(json.dumps(job) + "\n" for job in jobs)
    os.environ["BENCH_JOBS"] = str(path)
