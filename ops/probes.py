"""Runs functions that ask servers at once, each in a thread, and takes their answers for a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")

_ENDED = object()


def answers_within(
    seconds: float, probes: Mapping[K, Callable[[], Iterable[T]]]
) -> Iterator[tuple[K, T]]:
    """Run each probe in a thread of its own; yield what they yield, as soon as they yield it.

    Args:
        seconds: for all probes together; what a probe yields later is dropped.
        probes: by name, a function that must not raise.
    """
    answers: SimpleQueue[tuple[K, Any]] = SimpleQueue()
    for name, probe in probes.items():
        # A daemon: a server that hangs may hang for longer than the process runs.
        threading.Thread(
            target=_run, args=(name, probe, answers), name="formrelay-probe", daemon=True
        ).start()
    running, end = len(probes), monotonic() + seconds
    while running:
        try:
            name, answer = answers.get(timeout=max(0.0, end - monotonic()))
        except Empty:
            return
        if answer is _ENDED:
            running -= 1
        else:
            yield name, answer


def _run(name: K, probe: Callable[[], Iterable[T]], answers: SimpleQueue[tuple[K, Any]]) -> None:
    try:
        for answer in probe():
            answers.put((name, answer))
    finally:
        answers.put((name, _ENDED))
