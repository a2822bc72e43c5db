"""Runs an ``async`` task for a worker thread, which waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

#: Seconds after which a waiting thread looks whether it is interrupted (time limit, shutdown).
_CHECK_SECONDS = 0.2
#: Maximum number of seconds that a cancelled task gets to end.
_END_SECONDS = 5.0


def run_coroutine(
    loop: asyncio.AbstractEventLoop, start: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
) -> Any:
    """Run a coroutine function in an event loop; block until it returns.

    An interrupt of this thread (Dramatiq's ``TimeLimitExceeded`` or ``Shutdown``) cancels the
    coroutine and is raised when it has ended.
    """
    is_over = threading.Event()
    coroutine = _with_connections(is_over, start, args, kwargs)
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        while True:
            try:
                return future.result(timeout=_CHECK_SECONDS)
            except TimeoutError:
                if future.done():  # raised by the coroutine itself
                    raise
    except BaseException:
        if not future.done():
            future.cancel()
            # The future is cancelled at once, the coroutine at its next await.
            is_over.wait(_END_SECONDS)
        raise


async def _with_connections(
    is_over: threading.Event,
    start: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run with a thread of its own for synchronous code, as Django runs an ASGI request.

    The ORM's connections belong to that thread, which ends with the task.
    """
    try:
        async with ThreadSensitiveContext():
            try:
                return await start(*args, **kwargs)
            finally:
                await sync_to_async(connections.close_all)()
    finally:
        is_over.set()
