"""Compare formrelay with stock Dramatiq, BullMQ and Celery: alternating runs on the same servers.

    scripts/bench                    run every comparison, 6 rounds
    scripts/bench drain- pickup-     run the comparisons whose names begin with drain- or pickup-
    scripts/bench --rounds 3 --json bench.json
    scripts/bench --record           also write the figures to docs/benchmarks.md

Starts its own servers and uses the virtual environment of scripts/test. Prints medians, their
spread, and the median over the rounds of the ratio. The contenders of a round run one after
another, or take turns in one process, so a slow phase of a shared machine tends to affect all of
them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from comparisons import Comparison, Contender, comparisons  # noqa: E402
from page import record  # noqa: E402
from picture import number  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.support.servers import ClickHouseServer, RabbitServer, RedisServer  # noqa: E402

CONTENDER = str(ROOT / "bench" / "contender.py")


def measure(contender: Contender, name: str) -> dict[str, Any]:
    """Run one measurement in a fresh process on empty queues."""
    options = {**contender.options, "queue": "bench" + secrets.token_hex(4)}
    done = subprocess.run(
        [sys.executable, CONTENDER, contender.name, name, json.dumps(options)],
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
    """Run all rounds of one comparison."""
    task = progress.add_task(comparison.name, total=rounds * len(comparison.contenders))
    advance = partial(progress.advance, task)
    run_rounds = _joint_rounds if comparison.is_joint else _alternating_rounds
    return _rows(comparison, run_rounds(comparison, rounds, advance))


def _alternating_rounds(
    comparison: Comparison, rounds: int, advance: Callable[[int], None]
) -> list[list[dict[str, Any]]]:
    """Measure each contender once a round, in reverse order in every second round.

    Returns:
        The results of each contender.
    """
    results: list[list[dict[str, Any]]] = [[] for _ in comparison.contenders]
    order = list(zip(comparison.contenders, results, strict=True))
    for number_of_round in range(rounds):
        for contender, result in order if number_of_round % 2 == 0 else reversed(order):
            empty_redis()
            result.append(measure(contender, comparison.measure))
            advance(1)
    return results


def _joint_rounds(
    comparison: Comparison, rounds: int, advance: Callable[[int], None]
) -> list[list[dict[str, Any]]]:
    """Measure all contenders in one run a round.

    Returns:
        The results of each contender.
    """
    found = []
    for _ in range(rounds):
        empty_redis()
        found.append(measure(comparison.contenders[0], comparison.measure))
        advance(len(comparison.contenders))
    return [[each[contender.title] for each in found] for contender in comparison.contenders]


def _rows(comparison: Comparison, results: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Summarize the results, a row for each contender."""
    ours = [round[comparison.figure] for round in results[0]]
    rows = []
    for contender, result in zip(comparison.contenders, results, strict=True):
        all = [round[comparison.figure] for round in result]
        # None: the event never happened, for example no delayed message ran.
        figures = [figure for figure in all if figure is not None]
        rows.append(
            {
                "comparison": comparison.name,
                "contender": contender.title,
                "median": _median(all),
                "low": min(figures, default=None),
                "high": max(figures, default=None),
                "ours_is_times": _ratio(ours, all),
                "wanted": contender.wanted,
                "also": {
                    key: median(round[key] or 0 for round in result)
                    for key in result[0]
                    if key != comparison.figure
                },
            }
        )
    return rows


def _median(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return median(known) if len(known) == len(figures) else None


def _ratio(ours: list[float | None], theirs: list[float | None]) -> float | None:
    """The median over the rounds; None if the event never happened in one of them."""
    if None in ours or None in theirs:
        return None
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if mine and other]
    return median(ratios) if ratios else None


def show(comparison: Comparison, rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=comparison.title, title_justify="left", title_style="bold")
    table.add_column("contender")
    for name in ("median", "lowest", "highest", "ratio", "target"):
        table.add_column(name, justify="right")
    table.add_column("other medians")
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
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ", ".join(comparison.name for comparison in every)
    parser.add_argument(
        "names", nargs="*", help=f"exact names, or prefixes that select several: {names}"
    )
    parser.add_argument("--rounds", type=int, default=6, help="number of rounds (default: 6)")
    parser.add_argument("--json", type=Path, help="also write the figures to this JSON file")
    parser.add_argument(
        "--record", action="store_true", help="also write the figures to docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    known = {comparison.name for comparison in every}
    chosen = [
        comparison
        for comparison in every
        if not arguments.names
        or comparison.name in arguments.names
        or comparison.name.startswith(tuple(set(arguments.names) - known))
    ]
    if not chosen:
        parser.error(f"expected one or more of {names}, got {' '.join(arguments.names)}")
    console, figures = Console(), []
    with (
        RedisServer() as redis_server,
        RabbitServer() as rabbit_server,
        ClickHouseServer() as clickhouse_server,
    ):
        os.environ["FORMRELAY_TEST_CLICKHOUSE_URL"] = clickhouse_server.url
        os.environ["FORMRELAY_TEST_CLICKHOUSE_HTTP_URL"] = clickhouse_server.http_url
        os.environ["FORMRELAY_TEST_REDIS_URL"] = redis_server.url
        os.environ["FORMRELAY_TEST_RABBITMQ_URL"] = rabbit_server.url
        os.environ["FORMRELAY_TEST_RABBITMQ_PID"] = str(rabbit_server.pid)
        rabbit_server.ctl("add_vhost", "quorum")
        rabbit_server.ctl("set_permissions", "-p", "quorum", "guest", ".*", ".*", ".*")
        for comparison in chosen:
            with Progress(console=console, transient=True) as progress:
                rows = run(comparison, arguments.rounds, progress)
            show(comparison, rows, console)
            figures += rows
            if arguments.record:
                record(
                    {comparison.name: comparison.title for comparison in every},
                    rows,
                    arguments.rounds,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
