"""Sparklines: bars of a queue's attempts over time, as SVG paths that need no inline style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...state.history import Point, total

#: Size of the picture in its own units; whole numbers keep the paths short.
WIDTH, HEIGHT = 240, 48


@dataclass(frozen=True, slots=True)
class Sparkline:
    """Bars from the oldest on the left to now on the right.

    Attributes:
        good, bad: SVG paths of the attempts that succeeded and that failed, on top of each other.
        label: the figures in words, for screen readers and the tooltip.
    """

    good: str
    bad: str
    label: str


def sparkline(points: Sequence[Point], *, bars: int, period: str) -> Sparkline:
    """Draw the attempts of a queue.

    Args:
        points: of equal length, the oldest first.
        bars: maximum number of bars; points are added up to fit.
        period: the whole time, for the words: ``last hour``.
    """
    size = max(1, -(-len(points) // bars))
    # The last group ends now, so that the first may be the shorter one.
    first = len(points) % size
    groups = [points[:first]] if first else []
    groups += [points[index : index + size] for index in range(first, len(points), size)]
    sums = [total(group) for group in groups]
    highest = max((each.attempts for each in sums), default=0)
    good, bad = [], []
    step = WIDTH // max(1, len(sums))
    width = max(1, step - max(1, step // 4))
    for number, each in enumerate(sums):
        failed = each.retried + each.dead
        x = WIDTH - (len(sums) - number) * step
        low = _height(each.done, highest)
        if each.done:
            good.append(_bar(x, HEIGHT, width, low))
        if failed:
            bad.append(_bar(x, HEIGHT - low, width, _height(failed, highest)))
    return Sparkline("".join(good), "".join(bad), _words(total(points), period))


def _height(count: int, highest: int) -> int:
    # At least two units: a single failure among a million jobs must be visible.
    return max(2, round((HEIGHT - 4) * count / highest)) if count else 0


def _bar(x: int, bottom: int, width: int, height: int) -> str:
    return f"M{x} {bottom}h{width}v-{height}h-{width}z"


def _words(whole: Point, period: str) -> str:
    if not whole.attempts:
        return f"{period}: no jobs"
    failed = whole.retried + whole.dead
    return f"{period}: {whole.attempts:,} attempts, {failed:,} failed"
