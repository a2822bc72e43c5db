"""A redis-py client, and redis-py's errors by our names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError
from redis.retry import Retry
from redis.sentinel import Sentinel

from ...core.errors import ConfigError
from ..errors import BrokerRefused, BrokerUnavailable

#: What a node of a cluster answers; redis-py 4 leaves the code in the text.
_OF_CLUSTER = (MovedError, AskError, ClusterDownError, ClusterCrossSlotError)
_CODES_OF_CLUSTER = ("MOVED ", "ASK ", "CLUSTERDOWN ", "CROSSSLOT ")


def connect(url: str, *, timeout: timedelta) -> Any:
    """A client (``redis.Redis``) with a pool of connections; nothing is sent yet.

    Typed Any: redis-py's own types differ over the range that we support, and
    cannot tell bytes from text.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, or
            ``redis+sentinel://user:password@host:26379,host:26379/service/0`` for the
            master that Sentinels know (``rediss+sentinel://`` where it speaks TLS).
        timeout: to connect, and for an answer.
    """
    seconds = timeout.total_seconds()
    options: dict[str, Any] = {
        "socket_connect_timeout": seconds,
        # Idle consumers block for a second or so on purpose: the time-out for an answer
        # must be well above that.
        "socket_timeout": seconds + 5,
        # Trying again is decided above, where it is known what may be done twice.
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 30,
        "client_name": f"formrelay-{os.getpid()}",
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if "+sentinel://" in url:
        return _through_sentinels(url, options)
    return redis.Redis.from_url(url, **options)


def _through_sentinels(url: str, options: dict[str, Any]) -> Any:
    scheme, rest = url.split("://", 1)
    netloc, _, path = rest.partition("/")
    user_info, _, hosts = netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    path, _, query = path.partition("?")
    service, _, database = path.partition("/")
    if not service:
        raise ConfigError(
            "expected REDIS_URL to name the service that the Sentinels watch, like "
            "redis+sentinel://host:26379/mymaster, got none"
        )
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":")
        sentinels.append((name or host, int(port) if name else 26379))
    quick = {name: options[name] for name in ("socket_connect_timeout", "socket_keepalive")}
    make: Any = Sentinel  # without types in redis-py
    found = make(
        sentinels, sentinel_kwargs=quick | {"socket_timeout": options["socket_connect_timeout"]}
    )
    return found.master_for(
        service,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **({"ssl": True} if scheme.startswith("rediss") else {}),
        **dict(parse_qsl(query)),
        **options,
    )


def address(url: str) -> str:
    """Where a URL leads, without the password that may be in it."""
    if "+sentinel://" in url:
        netloc, _, path = url.split("://", 1)[1].partition("/")
        return f"{path.partition('/')[0]} (Sentinels {netloc.rpartition('@')[2]})"
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
        if isinstance(error, _OF_CLUSTER) or str(error).startswith(_CODES_OF_CLUSTER):
            raise BrokerRefused(no_cluster(where)) from None
        # Redis quotes the script, or a command it does not know with its arguments (a body, say).
        text = str(error).partition(" script:")[0].partition(", with args")[0]
        raise BrokerRefused(f"Redis at {where} refused: {text[:200]}") from None


def no_cluster(where: str) -> str:
    """What to say of a Redis Cluster."""
    return (
        f"expected a single Redis server or Sentinels at {where}, got a node of a Redis Cluster: "
        "use a server without cluster mode"
    )


def _cause(error: Exception) -> str:
    root: BaseException = error
    while root.__cause__ is not None or root.__context__ is not None:
        root = root.__cause__ or root.__context__ or root
    return (root.strerror or str(root)) if isinstance(root, OSError) else str(root)
