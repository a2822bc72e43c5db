"""The figures of docs/benchmarks.md, as ``scripts/bench --record`` measured them last."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "bench" / "figures.json"
PAGE = ROOT / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures: scripts/bench --record -->\n", "<!-- end of figures -->\n"


def record(title_by_name: dict[str, str], rows: list[dict[str, Any]], rounds: int) -> None:
    """Put the rows of some comparisons in the place of their last ones, and write the page."""
    known: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name, title in title_by_name.items():
        its = [row for row in rows if row["comparison"] == name]
        if its:
            known[name] = {"title": title, "made": _made(rounds), "rows": its}
    ordered = {name: known[name] for name in title_by_name if name in known}
    FIGURES.write_text(json.dumps(ordered, indent=2) + "\n")
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    tables = "\n".join(_table(one) for one in ordered.values())
    PAGE.write_text(f"{before}{_BEGIN}\n{tables}\n{_END}{after}")


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
        "| contender | median | lowest | highest | formrelay is | wanted | also (medians) |",
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


def number(figure: float | None) -> str:
    """As tables show it; None is what never happened."""
    if figure is None:
        return "never"
    return f"{figure:,.1f}" if figure < 100 else f"{figure:,.0f}"
