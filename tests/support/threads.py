"""Calls a function in several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def at_once(work: Callable[[T], object], items: Iterable[T], *, timeout: float = 30) -> None:
    """Call ``work`` with each item in a thread of its own, all starting together.

    Raises:
        BaseException: the error of the first item that failed, after all threads have ended.
    """
    every = list(items)
    start = Barrier(len(every))

    def begin(item: T) -> None:
        start.wait(timeout)
        work(item)

    with ThreadPoolExecutor(len(every)) as pool:
        futures = [pool.submit(begin, item) for item in every]
    for future in futures:
        future.result()
