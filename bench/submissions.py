"""Measures submissions per second into the Django site of the examples.

The limit is the rate of wrk with the same requests (same bodies, keep-alive). Both wrk and the
worker run with several concurrencies, and the best rate counts. The site runs in two gunicorn
processes with four threads each, which is fastest on two cores, or in one waitress process, which
is a third slower and leaves one core free. Its database is SQLite with a write-ahead log.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count as counter
from operator import itemgetter
from pathlib import Path
from typing import Any

from dramatiq.middleware import Middleware
from ours import configure
from started import cpu_seconds

from tests.support.servers.django_site import DjangoSite

_SCRIPT = Path(__file__).with_name("submit.lua")
_ID = "SUBMISSION-ID"
#: Concurrencies to try: connections of wrk, threads of the worker.
_CONCURRENCIES = (2, 4, 8, 16)


def payload(id: str) -> dict[str, Any]:
    """A submission with seven answers, about 350 bytes of JSON."""
    return {
        "submissionId": id,
        "formId": "bench",
        "status": "completed",
        "answers": {f"question_{number}": "x" * 20 for number in range(7)},
        "submittedAt": "2026-01-31T09:30:00Z",
    }


class Site(DjangoSite):
    """The site, with its CPU time and its number of submissions."""

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes."""
        return cpu_seconds(self.pid)

    def saved(self) -> int:
        """Number of submissions in its database."""
        with closing(sqlite3.connect(self.data_dir / "site.sqlite3")) as database:
            return int(database.execute("SELECT count(*) FROM forms_submission").fetchone()[0])


class Gunicorn(Site):
    """The site in two gunicorn processes."""

    package = "gunicorn (pip)"

    @classmethod
    def program(cls) -> str | None:
        found = Path(sys.executable).with_name("gunicorn")
        return str(found) if found.exists() else None

    def argv(self) -> list[str]:
        processes = ["--workers=2", "--threads=4", "--worker-class=gthread", "--keep-alive=60"]
        return [self._require_program(), f"--bind=127.0.0.1:{self.port}", *processes]


_SITES = {"gunicorn": Gunicorn, "waitress": Site}


def submit(contender: str, *, queue: str, count: int, server: str) -> Any:
    """Submissions per second that a worker saves from a full queue, or wrk sends."""
    with _SITES[server]() as site:
        _warm_up(site)
        if contender == "limit":
            return _best(_wrk(site, connections, 4) for connections in _CONCURRENCIES)
        broker = _ours(site, SUBMISSION_QUEUE=queue)
        return _best(_drain(site, broker, queue, count, threads) for threads in _CONCURRENCIES)


def _best(found: Iterable[dict[str, float]]) -> dict[str, float]:
    return max(found, key=itemgetter("per_second"))


def autosave(_contender: str, *, queue: str, count: int, sessions: int, threads: int) -> Any:
    """Number of API calls for autosaves that wait at the same time."""
    with Gunicorn() as site:
        broker = _ours(site, PARTIAL_QUEUE=queue)
        from formrelay.actors import enqueue_many, save_partial
        from formrelay.sinks.api import Api

        calls = counter()
        real = Api.save_partial

        def counted(self: Any, id: str, data: Any) -> bool:
            next(calls)
            return real(self, id, data)

        Api.save_partial = counted  # type: ignore[method-assign]
        enqueue_many(
            save_partial, ({"payload": autosave} for autosave in _autosaves(count, sessions))
        )
        seconds, used = _work(broker, queue, count, threads)
        with closing(sqlite3.connect(site.data_dir / "site.sqlite3")) as database:
            found = database.execute("SELECT count(*), min(revision) FROM forms_partial").fetchone()
        if found != (sessions, count // sessions - 1):
            raise SystemExit(f"expected {sessions} partials in their newest revision, got {found}")
        return {"calls": next(calls), "per_second": count / seconds, "cpu_us": used / count * 1e6}


def _autosaves(count: int, sessions: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        session = f"session-{number % sessions}"
        yield {
            "partialId": session,
            "formId": "bench",
            "sessionId": session,
            "revision": number // sessions,
            "answers": payload("")["answers"],
            "updatedAt": "2026-01-31T09:30:00Z",
        }


def _drain(site: Site, broker: Any, queue: str, count: int, threads: int) -> dict[str, float]:
    from formrelay.actors import enqueue_many, save_submission

    jobs = ({"payload": payload(f"job-{threads}-{number}")} for number in range(count))
    enqueue_many(save_submission, jobs)
    before, known = site.cpu_seconds(), site.saved()
    seconds, used = _work(broker, queue, count, threads)
    of_site = site.cpu_seconds() - before
    if site.saved() - known != count:
        raise SystemExit(f"expected {count} submissions, got {site.saved() - known}")
    return {
        "per_second": count / seconds,
        "cpu_us": used / count * 1e6,
        "site_cpu_us": of_site / count * 1e6,
        "concurrency": float(threads),
    }


def _warm_up(site: Site) -> None:
    """Let every process of the site import and connect before the measurement."""
    _wrk(site, 8, 1)


def _wrk(site: Site, connections: int, seconds: int) -> dict[str, float]:
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("expected wrk to measure the site's limit, got none: apt-get install wrk")
    before, _, after = json.dumps(payload(_ID), separators=(",", ":")).partition(_ID)
    cpu, mark = site.cpu_seconds(), f"{time.monotonic_ns()}"
    argv = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT), site.url]
    out = subprocess.check_output([*argv, "--", mark, before, after, site.token], text=True)
    (line,) = [one for one in out.splitlines() if one.startswith("counted ")]
    requests, micros, bad = map(int, line.split()[1:])
    if bad or not requests:
        raise SystemExit(f"expected only 2xx answers, got {bad} others in {requests} requests")
    used = (site.cpu_seconds() - cpu) / requests * 1e6
    return {
        "per_second": requests / micros * 1e6,
        "site_cpu_us": used,
        "concurrency": float(connections),
    }


def _ours(site: Site, **queues: str) -> Any:
    configure(API_URL=site.url, API_TOKEN=site.token, **queues)
    from formrelay.actors import declare_actors
    from formrelay.brokers import get_broker
    from formrelay.middleware.process_tuning import tune_garbage_collector

    declare_actors()
    tune_garbage_collector()  # as a worker does when it starts
    return get_broker()


def _work(broker: Any, queue: str, count: int, threads: int) -> tuple[float, float]:
    """Return the seconds and the CPU seconds until ``count`` messages are done."""
    from dramatiq import Worker

    done = _Done(count)
    broker.add_middleware(done)
    start, cpu = time.perf_counter(), time.process_time()
    worker = Worker(broker, queues={queue}, worker_threads=threads)
    worker.start()
    if not done.finished.wait(300):
        raise SystemExit("expected to be done within 300 s")
    took = time.perf_counter() - start, time.process_time() - cpu
    worker.stop()
    return took


class _Done(Middleware):
    """Counts successful messages, and each part of a batch."""

    def __init__(self, expected: int) -> None:
        self.finished = threading.Event()
        self._expected, self._done = expected, counter(1)

    def after_process_message(
        self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        for _ in getattr(message, "parts", (1,)) if exception is None else ():
            if next(self._done) == self._expected:
                self.finished.set()
