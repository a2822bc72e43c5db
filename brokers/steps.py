"""Runs a long operation in steps, at a limited rate, until it is done or stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

#: Called during a long operation with the number of messages processed so far.
Progress: TypeAlias = Callable[[int], object]

#: Maximum seconds of one step at a limited rate, and between two questions whether to stop.
_STEP_SECONDS, _ASK_SECONDS = 0.5, 0.1


def most_per_step(rate: float | None) -> int | None:
    """Maximum number of messages in a step, so that steps at ``rate`` (per second) are short."""
    return None if rate is None else max(1, int(rate * _STEP_SECONDS))


def run_steps(
    steps: Iterator[int],
    progress: Progress,
    *,
    rate: float | None,
    should_stop: Callable[[], bool],
) -> int:
    """Run the steps; return the number of messages that they processed.

    Args:
        steps: yields the number of messages of each step.
        rate: maximum number of messages in a second; None: no limit.
        should_stop: asked before each step, and while waiting.
    """
    started, count = time.monotonic(), 0
    try:
        while not should_stop():
            step = next(steps, None)
            if step is None:
                break
            count += step
            progress(count)
            if rate is not None:
                _wait_until(started + count / rate, should_stop)
    finally:
        # Here, not when it is collected: RabbitMQ hides the dead letters until then.
        if isinstance(steps, Generator):
            steps.close()
    return count


def chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in lists of at most ``size``."""
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk


def _wait_until(at: float, should_stop: Callable[[], bool]) -> None:
    while (left := at - time.monotonic()) > 0 and not should_stop():
        time.sleep(min(left, _ASK_SECONDS))
