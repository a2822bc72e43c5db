"""Compares formrelay's brokers with stock Dramatiq: alternating, on the same servers, in one run.

    scripts/bench                    every comparison, 5 rounds
    scripts/bench drain pickup       these alone
    scripts/bench --rounds 3 --json bench.json
    scripts/bench --record           and put the figures into docs/benchmarks.md

Starts servers of its own, in the environment that scripts/test has made. Prints
medians with their spread and the ratio of the medians; machines are shared, so a
ratio from one run says more than a rate from another.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from page import number, record  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.support.servers import ClickHouseServer, RabbitServer, RedisServer  # noqa: E402

CONTENDER = str(ROOT / "bench" / "contender.py")
TUNED = {"dramatiq_queue_prefetch": "1000", "dramatiq_delay_queue_prefetch": "0"}


@dataclass(frozen=True)
class Contender:
    """Who is measured: a name of bench/contender.py, options, and what to beat them by."""

    title: str
    name: str
    options: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    wanted: float | None = None  # ours must be so many times this one


@dataclass(frozen=True)
class Comparison:
    """Ours first, then those that it is compared with."""

    name: str
    title: str
    measure: str
    figure: str
    contenders: tuple[Contender, ...]
    more_is_better: bool = True


def comparisons() -> list[Comparison]:
    threads = 8
    fast, slow = {"count": 40_000, "threads": threads}, {"count": 8_000, "threads": threads}
    middle = {"count": 15_000, "threads": threads}
    hooks = {"threads": 10, "endpoints": 100}
    slowly = {"threads": 200, "endpoints": 100, "pause_ms": 200, "count": 5_000}
    steadily = {**hooks, "seconds": 25, "rate": 1_000}
    saved = {"count": 2_500}
    recorded = {"count": 200_000, "threads": threads}
    return [
        Comparison(
            "drain-redis",
            "no-op drain on Redis, one process, 8 threads, 300 bytes: messages/s",
            "drain",
            "per_second",
            (
                Contender("formrelay", "redis-ours", fast),
                Contender("stock, as it comes", "redis-stock", slow, wanted=6),
                Contender("stock, prefetch 1000", "redis-stock", middle, TUNED, wanted=3),
            ),
        ),
        Comparison(
            "shared-redis",
            "no-op drain on Redis by one process and by two, 8 threads each: messages/s",
            "shared",
            "per_second",
            (
                Contender("formrelay, two", "redis-ours", {**fast, "processes": 2}),
                Contender("formrelay, one", "redis-ours", {**fast, "processes": 1}, wanted=1.5),
                Contender("stock, two", "redis-stock", {**middle, "processes": 2}, TUNED),
                Contender("stock, one", "redis-stock", {**middle, "processes": 1}, TUNED),
            ),
        ),
        Comparison(
            "drain-rabbitmq",
            "no-op drain on RabbitMQ (classic queues), one process, 8 threads: messages/s",
            "drain",
            "per_second",
            (
                Contender("formrelay", "rabbitmq-ours", middle),
                Contender("stock, as it comes", "rabbitmq-stock", slow, wanted=2.5),
                Contender("stock, prefetch 1000", "rabbitmq-stock", middle, TUNED, wanted=1.3),
                Contender("formrelay, quorum queue", "rabbitmq-quorum", middle),
            ),
        ),
        Comparison(
            "enqueue-redis",
            "enqueue_many on Redis against a loop of send: messages/s",
            "enqueue",
            "per_second",
            (
                Contender("formrelay", "redis-ours", {"count": 50_000}),
                Contender("stock", "redis-stock", {"count": 10_000}, wanted=5),
            ),
        ),
        Comparison(
            "enqueue-rabbitmq",
            "enqueue_many on RabbitMQ with confirms against stock with them: messages/s",
            "enqueue",
            "per_second",
            (
                Contender("formrelay", "rabbitmq-ours", {"count": 20_000}),
                Contender("stock, confirmed", "rabbitmq-confirmed", {"count": 3_000}, wanted=5),
                Contender("formrelay, quorum queue", "rabbitmq-quorum", {"count": 20_000}),
            ),
        ),
        Comparison(
            "pickup-redis",
            "an idle worker starts a new job on Redis: median ms",
            "pickup",
            "p50_ms",
            (
                Contender("formrelay", "redis-ours", {"count": 60}),
                Contender("stock", "redis-stock", {"count": 60}),
            ),
            more_is_better=False,
        ),
        Comparison(
            "pickup-rabbitmq",
            "an idle worker starts a new job on RabbitMQ: median ms",
            "pickup",
            "p50_ms",
            (
                Contender("formrelay", "rabbitmq-ours", {"count": 60}),
                Contender("stock", "rabbitmq-stock", {"count": 60}),
            ),
            more_is_better=False,
        ),
        Comparison(
            "delayed-redis",
            "100 due in 5 s behind 50,000 due in an hour, Redis: worst lateness in ms",
            "delayed",
            "worst_late_ms",
            tuple(
                Contender(title, name, {"far": 50_000, "near": 100, "delay_ms": 5_000})
                for title, name in (("formrelay", "redis-ours"), ("stock", "redis-stock"))
            ),
            more_is_better=False,
        ),
        Comparison(
            "many-delayed-redis",
            "100 due in 5 s behind 500,000 due in an hour, Redis: worst lateness in ms",
            "delayed",
            "worst_late_ms",
            (
                Contender(
                    "formrelay", "redis-ours", {"far": 500_000, "near": 100, "delay_ms": 5_000}
                ),
            ),
            more_is_better=False,
        ),
        Comparison(
            "delayed-rabbitmq",
            "100 due in 5 s behind 50,000 due in an hour, RabbitMQ: worst lateness in ms",
            "delayed",
            "worst_late_ms",
            tuple(
                Contender(title, name, {"far": 50_000, "near": 100, "delay_ms": 5_000})
                for title, name in (("formrelay", "rabbitmq-ours"), ("stock", "rabbitmq-stock"))
            ),
            more_is_better=False,
        ),
        Comparison(
            "webhooks",
            "signed webhooks to a local receiver, 100 endpoints, one process, 10 threads, Redis: "
            "deliveries/s",
            "deliver",
            "per_second",
            (
                Contender("formrelay", "redis-ours", {**hooks, "count": 15_000}),
                Contender("stock, requests", "redis-stock", {**hooks, "count": 2_500}, wanted=6),
            ),
        ),
        Comparison(
            "webhooks-slow",
            "webhooks to receivers that take 200 ms, concurrency 200, one process: deliveries/s",
            "deliver",
            "per_second",
            (
                Contender("formrelay", "redis-ours", slowly),
                Contender("200 at a time, 200 ms each", "arithmetic", slowly, wanted=0.9),
            ),
        ),
        Comparison(
            "webhooks-hanging",
            "webhooks from a full queue while 5 of 100 endpoints never answer, concurrency 10: "
            "deliveries/s to the others",
            "deliver",
            "per_second",
            (
                Contender("5 hang", "redis-ours", {**hooks, "count": 20_000, "hanging": 5}),
                Contender("none hangs", "redis-ours", {**hooks, "count": 20_000}, wanted=0.8),
            ),
        ),
        Comparison(
            "webhooks-late",
            "1,000 webhooks/s for 25 s, 5 of 100 endpoints never answer, concurrency 10: ms from "
            "send() to delivery to the others, p99 (wanted: under 2,000)",
            "late",
            "p99_ms",
            (
                Contender("5 hang", "redis-ours", {**steadily, "hanging": 5}),
                Contender("none hangs", "redis-ours", {**steadily, "hanging": 0}),
            ),
            more_is_better=False,
        ),
        Comparison(
            "events",
            "events into ClickHouse, one a message, one process, Redis: events/s",
            "record",
            "per_second",
            (
                Contender("formrelay", "ours", {**recorded, "many": 1}),
                Contender("the limit: no queue", "limit", {**recorded, "many": 1}, wanted=0.33),
                Contender(
                    "stock, an insert each", "stock", {**recorded, "count": 1_000, "many": 1}
                ),
            ),
        ),
        Comparison(
            "events-lists",
            "events into ClickHouse in lists of 100 a message, one process, Redis: events/s",
            "record",
            "per_second",
            (
                Contender("lists of 100", "ours", {**recorded, "many": 100}),
                Contender("one a message", "ours", {**recorded, "many": 1}, wanted=2),
                Contender("the limit: no queue", "limit", {**recorded, "many": 100}),
            ),
        ),
        Comparison(
            "events-memory",
            "memory of one process that records events: MB above its start",
            "record",
            "grew_mb",
            (
                Contender("2,000,000 events", "ours", {**recorded, "count": 2_000_000, "many": 1}),
                Contender("200,000 events", "ours", {**recorded, "many": 1}),
            ),
            more_is_better=False,
        ),
        Comparison(
            "events-away",
            "a worker of events for 30 s while ClickHouse is away and 100,000 wait: % of a core",
            "away",
            "cpu_percent",
            (
                Contender(
                    "formrelay", "ours", {"count": 100_000, "threads": threads, "seconds": 30}
                ),
            ),
            more_is_better=False,
        ),
        *(
            Comparison(
                name,
                f"submissions into the Django site on the same two cores ({site}), one process, "
                "Redis: submissions/s",
                "submit",
                "per_second",
                (
                    Contender("formrelay", "ours", {**saved, "server": server}),
                    Contender(
                        "the site's limit: wrk", "limit", {**saved, "server": server}, wanted=0.85
                    ),
                ),
            )
            for name, server, site in (
                ("submissions", "gunicorn", "two processes of gunicorn"),
                ("submissions-waitress", "waitress", "one process of waitress"),
            )
        ),
        Comparison(
            "submissions-partials",
            "10,000 autosaves of 500 sessions that wait together: calls of the API "
            "(wanted: at most 600)",
            "autosave",
            "calls",
            (
                Contender(
                    "formrelay", "ours", {"count": 10_000, "sessions": 500, "threads": threads}
                ),
            ),
            more_is_better=False,
        ),
        Comparison(
            "depth-redis",
            "cost a message with many more behind it, Redis: drain of 20,000, messages/s",
            "drain",
            "per_second",
            (
                Contender("1,000 behind", "redis-ours", {**fast, "count": 20_000, "behind": 1_000}),
                Contender(
                    "1,000,000 behind",
                    "redis-ours",
                    {**fast, "count": 20_000, "behind": 1_000_000},
                ),
            ),
        ),
    ]


def measure(contender: Contender, what: str) -> dict[str, Any]:
    """One run in a fresh process on emptied queues."""
    options = {**contender.options, "queue": "bench" + secrets.token_hex(4)}
    done = subprocess.run(
        [sys.executable, CONTENDER, contender.name, what, json.dumps(options)],
        env={**os.environ, **contender.env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        raise SystemExit(f"{contender.title}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def empty_redis() -> None:
    import redis

    with redis.Redis.from_url(os.environ["FORMRELAY_TEST_REDIS_URL"]) as client:
        client.flushall()


def run(comparison: Comparison, rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """All rounds of one comparison; the contenders take turns."""
    task = progress.add_task(comparison.name, total=rounds * len(comparison.contenders))
    results: list[list[dict[str, Any]]] = [[] for _ in comparison.contenders]
    for _ in range(rounds):
        for contender, result in zip(comparison.contenders, results, strict=True):
            empty_redis()
            result.append(measure(contender, comparison.measure))
            progress.advance(task)
    ours = _median([one[comparison.figure] for one in results[0]])
    rows = []
    for contender, result in zip(comparison.contenders, results, strict=True):
        # None: it never happened (stock's messages that are due in 5 s, say).
        figures = [one[comparison.figure] for one in result if one[comparison.figure] is not None]
        middle = _median([one[comparison.figure] for one in result])
        rows.append(
            {
                "comparison": comparison.name,
                "contender": contender.title,
                "median": middle,
                "low": min(figures, default=None),
                "high": max(figures, default=None),
                "ours_is_times": ours / middle if ours and middle else None,
                "wanted": contender.wanted,
                "also": {
                    key: median(one[key] or 0 for one in result)
                    for key in result[0]
                    if key != comparison.figure
                },
            }
        )
    return rows


def _median(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return median(known) if len(known) == len(figures) else None


def show(comparison: Comparison, rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=comparison.title, title_justify="left", title_style="bold")
    table.add_column("contender")
    for name in ("median", "lowest", "highest", "formrelay is", "wanted"):
        table.add_column(name, justify="right")
    table.add_column("also (medians)")
    for row in rows:
        times, wanted = row["ours_is_times"], row["wanted"]
        missed = wanted is not None and (times is None or times < wanted)
        table.add_row(
            row["contender"],
            *(number(row[key]) for key in ("median", "low", "high")),
            f"[{'red' if missed else 'default'}]{times:.2f} ×" if times else "–",
            f"{wanted} ×" if wanted else "",
            ", ".join(f"{key} {value:,.1f}" for key, value in row["also"].items()),
        )
    console.print(table)


def main() -> None:
    every = comparisons()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=", ".join(one.name for one in every))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--record", action="store_true", help="put them into docs/benchmarks.md")
    arguments = parser.parse_args()
    chosen = [
        one
        for one in every
        if not arguments.names or any(one.name.startswith(n) for n in arguments.names)
    ]
    if not chosen:
        parser.error(f"expected some of {', '.join(one.name for one in every)}")
    console, figures = Console(), []
    with (
        RedisServer() as redis_server,
        RabbitServer() as rabbit_server,
        ClickHouseServer() as clickhouse_server,
    ):
        os.environ["FORMRELAY_TEST_CLICKHOUSE_URL"] = clickhouse_server.url
        os.environ["FORMRELAY_TEST_REDIS_URL"] = redis_server.url
        os.environ["FORMRELAY_TEST_RABBITMQ_URL"] = rabbit_server.url
        rabbit_server.ctl("add_vhost", "quorum")
        rabbit_server.ctl("set_permissions", "-p", "quorum", "guest", ".*", ".*", ".*")
        for comparison in chosen:
            with Progress(console=console, transient=True) as progress:
                rows = run(comparison, arguments.rounds, progress)
            show(comparison, rows, console)
            figures += rows
            if arguments.record:
                record({one.name: one.title for one in every}, rows, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
