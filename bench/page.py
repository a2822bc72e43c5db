"""Writes the figures of ``scripts/bench --record`` to bench/figures.json and docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from picture import number, picture

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "bench" / "figures.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "pictures" / "benchmarks.svg"
_BEGIN, _END = "<!-- figures: scripts/bench --record -->\n", "<!-- end of figures -->\n"


def record(title_by_name: dict[str, str], rows: list[dict[str, Any]], rounds: int) -> None:
    """Replace the recorded rows of the measured comparisons, and write the page.

    Args:
        title_by_name: titles of all comparisons, in the order of the page.
        rows: result rows of the measured comparisons.
        rounds: number of rounds that were run.
    """
    known: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name, title in title_by_name.items():
        measured = [row for row in rows if row["comparison"] == name]
        if measured:
            known[name] = {"title": title, "made": _made(rounds), "rows": measured}
    ordered = {name: known[name] for name in title_by_name if name in known}
    FIGURES.write_text(json.dumps(ordered, indent=2) + "\n")
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    tables = "\n".join(map(_table, ordered.values()))
    PAGE.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")
    started = [each for name, each in ordered.items() if name.startswith("started-")]
    if started:
        PICTURE.write_text(picture(started))


def _made(rounds: int) -> str:
    day = datetime.now(UTC).date().isoformat()
    return (
        f"{day}, {rounds} rounds, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"dramatiq {version('dramatiq')}"
    )


def _table(comparison: dict[str, Any]) -> str:
    lines = [
        f"### {comparison['title']}",
        "",
        "| contender | median | lowest | highest | ratio | target | other medians |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in comparison["rows"]:
        times, wanted = row["ours_is_times"], row["wanted"]
        cells = (
            row["contender"],
            *(number(row[key]) for key in ("median", "low", "high")),
            f"{times:.2f} ×" if times else "–",
            f"{wanted:g} ×" if wanted else "",
            ", ".join(f"{key} {value:,.1f}" for key, value in row["also"].items()),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"({comparison['made']})", ""])
