"""A redis-py client, and redis-py's errors by our names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import BrokerRefused, BrokerUnavailable


def connect(url: str, *, timeout: timedelta) -> Any:
    """A client (``redis.Redis``) with a pool of connections; nothing is sent yet.

    Typed Any: redis-py's own types differ over the range that we support, and
    cannot tell bytes from text.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout: to connect, and for an answer.
    """
    seconds = timeout.total_seconds()
    over_tcp: dict[str, Any] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        url,
        **over_tcp,
        socket_connect_timeout=seconds,
        # Idle consumers block for a second or so on purpose: the time-out for an answer
        # must be well above that.
        socket_timeout=seconds + 5,
        # Trying again is decided above, where it is known what may be done twice.
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
        client_name=f"formrelay-{os.getpid()}",
    )


def address(url: str) -> str:
    """Where a URL leads, without the password that may be in it."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Redis errors as ours.

    Args:
        where: the address, for the message.

    Raises:
        BrokerUnavailable: no connection, or no answer in time.
        BrokerRefused: an answer that is an error: wrong password, out of memory, read-only.
    """
    try:
        yield
    except redis.AuthenticationError:
        raise BrokerRefused(
            f"expected Redis at {where} to accept our user and password, it refused them: "
            "check REDIS_URL"
        ) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise BrokerUnavailable(
            f"expected Redis at {where} to answer, got {type(error).__name__}: "
            f"{_cause(error)}; check that it runs and that REDIS_URL is right"
        ) from None
    except redis.ResponseError as error:
        # Redis quotes the script and the command in some errors; the first word is the code.
        text = str(error).partition(" script:")[0]
        raise BrokerRefused(f"Redis at {where} refused: {text[:200]}") from None


def _cause(error: Exception) -> str:
    root: BaseException = error
    while root.__cause__ is not None or root.__context__ is not None:
        root = root.__cause__ or root.__context__ or root
    return (root.strerror or str(root)) if isinstance(root, OSError) else str(root)
