"""Gives an ``async`` task a thread and database connections of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections


async def with_own_thread(
    function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
) -> Any:
    """Call a coroutine function with a thread of its own, as Django runs an ASGI request.

    Its synchronous code runs in that thread, to which the ORM's connections belong. The thread
    ends with the call.
    """
    async with ThreadSensitiveContext():
        try:
            return await function(*args, **kwargs)
        finally:
            await sync_to_async(connections.close_all)()
