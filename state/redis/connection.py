"""Makes the Redis client for a URL, and translates redis-py's errors."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from ...config.expected import Expected
from ...config.redis_urls import RedisAddress, read_redis_url
from ...core.broker_errors import BrokerRefused, BrokerUnavailable
from ...core.errors import ConfigError
from . import client as clients
from .pool import NoConnectionFree, bounded

#: TCP keep-alive: seconds before the first probe, seconds between probes, number of probes. The
#: probes keep the connection open at load balancers and NATs.
_KEEPALIVE = {"TCP_KEEPIDLE": 45, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

#: Errors of a cluster node; redis-py 4 leaves the code in the text.
_OF_CLUSTER = (MovedError, AskError, ClusterDownError, ClusterCrossSlotError)
_CODES_OF_CLUSTER = ("MOVED ", "ASK ", "CLUSTERDOWN ", "CROSSSLOT ")

#: What to check if Redis does not answer.
_URLS = "that REDIS_URL, or STATE_URL for the shared store, is right"


def connect_redis(url: str, *, timeout: timedelta, variable: str = "REDIS_URL") -> Any:
    """Make a client (``redis.Redis``) with a connection pool. Connects to no server.

    Typed Any: redis-py's types differ between the supported versions and do not tell bytes
    from text.

    Args:
        url: see docs/brokers.md: ``redis://``, ``rediss://``, ``unix://``,
            ``redis+sentinel://`` or ``rediss+sentinel://``, with options.
        timeout: to connect and for an answer, unless the URL sets its own.
        variable: the environment variable of the URL, for error messages.

    Raises:
        ConfigError: the URL is malformed or has an invalid option.
    """
    try:
        found = read_redis_url(url)
        _check_files(found)
    except Expected as error:
        raise ConfigError(error.line(variable, raw="", secret=True)) from None
    options, bound = _options(found, timeout), found.options.get("max_connections")
    # The wait for a free connection is the wait for an answer.
    wait = options["socket_timeout"]
    if found.service is not None:
        sentinel = _sentinel(found, options)
        options["connection_class"] = (
            clients.TlsMasterConnection if found.is_tls else clients.MasterConnection
        )
        pool = bounded(SentinelConnectionPool, bound, wait)(found.service, sentinel, **options)
    elif found.path is not None:
        options |= {"connection_class": clients.SocketConnection, "path": found.path}
        pool = bounded(ConnectionPool, bound, wait)(**options)
    else:
        options["connection_class"] = (
            clients.TlsConnection if found.is_tls else clients.TcpConnection
        )
        options["host"], options["port"] = found.hosts[0]
        pool = bounded(ConnectionPool, bound, wait)(**options)
    return clients.RedisClient(connection_pool=pool)


def answer_timeout(client: Any) -> float:
    """The time-out for an answer, in seconds."""
    return float(client.connection_pool.connection_kwargs["socket_timeout"])


def redis_address(url: str) -> str:
    """The host and port of a URL, without user, password and options."""
    return str(read_redis_url(url))


def _options(found: RedisAddress, timeout: timedelta) -> dict[str, Any]:
    """The keyword arguments of the connections to the server."""
    seconds = timeout.total_seconds()
    options: dict[str, Any] = {
        "db": found.database,
        "username": found.username,
        "password": found.password,
        # Idle consumers block for about a second, so the time-out for an answer is well above.
        "socket_timeout": seconds + 5,
        # RedisClient decides about retries: it knows which commands may run twice.
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 30,
        "client_name": f"formrelay-{os.getpid()}",
        **_protocol(),
    }
    if found.path is None:
        options |= {"socket_connect_timeout": seconds, **_keepalive()}
    ours = {name: value for name, value in found.options.items() if name[:4] != "ssl_"}
    # Unlimited here: the bounded pool counts connections and lets callers wait.
    options |= ours | {"max_connections": 2**31}
    if found.path is not None:
        for name in ("socket_connect_timeout", "socket_keepalive"):
            options.pop(name, None)
    if found.is_tls:
        options |= _tls(found)
    return options


def _protocol() -> dict[str, Any]:
    """RESP2 on every version of redis-py, so that answers have the same shape."""
    known = inspect.signature(redis.Redis.__init__).parameters
    return {"protocol": 2} if "protocol" in known else {}


def _keepalive() -> dict[str, Any]:
    known = {
        getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
    }
    return {"socket_keepalive": True, "socket_keepalive_options": known}


def _tls(found: RedisAddress) -> dict[str, Any]:
    given = {name: value for name, value in found.options.items() if name[:4] == "ssl_"}
    options = {"ssl_cert_reqs": "required", "ssl_check_hostname": True} | given
    if options["ssl_cert_reqs"] == "none":
        options["ssl_check_hostname"] = False  # required by Python's ssl
    return options


def _sentinel(found: RedisAddress, options: dict[str, Any]) -> Any:
    """The client of the Sentinels, which are asked for the master at each new connection."""
    given = dict(found.sentinel_options)
    seconds = options["socket_connect_timeout"]
    theirs: dict[str, Any] = {
        "socket_connect_timeout": seconds,
        "socket_timeout": seconds,
        # Sentinels only answer questions, so a command may be repeated after a dropped connection.
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [redis.ConnectionError],
        **_protocol(),
        **_keepalive(),
    }
    if given.pop("tls", False):
        theirs |= {"ssl": True, **_tls(found)}
    make: Any = Sentinel  # without types in redis-py
    return make(list(found.hosts), sentinel_kwargs=theirs | given)


def _check_files(found: RedisAddress) -> None:
    for name in _FILES:
        path = found.options.get(name)
        if path is not None and not os.access(path, os.R_OK):
            why = "cannot be read" if Path(path).exists() else "does not exist"
            raise Expected(
                f"name a file that can be read in its option {name}", got=f"{path!r}, which {why}"
            )


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Translate the errors of redis-py.

    Args:
        where: the server's address, for the message.

    Raises:
        BrokerUnavailable: no connection, or no answer in time.
        BrokerRefused: Redis answered with an error: wrong password, out of memory, read-only.
    """
    try:
        yield
    except redis.AuthenticationError:
        raise BrokerRefused(
            f"expected Redis at {where} to accept the user and password of its URL, it refused "
            "them: check REDIS_URL or STATE_URL"
        ) from None
    except NoConnectionFree as error:
        raise BrokerUnavailable(f"no connection to Redis at {where}: {error}") from None
    except MasterNotFoundError:
        # The error's own text contains the configuration of the Sentinels.
        raise BrokerUnavailable(
            f"expected the Sentinels to name a master for {where}, none did; check that they run, "
            "watch that service, and accept the user and password"
        ) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise BrokerUnavailable(
            f"expected Redis at {where} to answer, got {type(error).__name__}: "
            f"{_cause(error)}; check that it runs, and {_URLS}"
        ) from None
    except redis.ResponseError as error:
        if isinstance(error, _OF_CLUSTER) or str(error).startswith(_CODES_OF_CLUSTER):
            raise BrokerRefused(no_cluster(where)) from None
        # Redis quotes the script, or an unknown command with its arguments, which may be a body.
        text = str(error).partition(" script:")[0].partition(", with args")[0]
        raise BrokerRefused(f"Redis at {where} refused: {text[:200]}") from None
    except redis.RedisError as error:
        # The error's text may quote the received bytes.
        raise BrokerUnavailable(
            f"expected Redis at {where} to answer as Redis does, got {type(error).__name__}; "
            f"check {_URLS}"
        ) from None


def no_cluster(where: str) -> str:
    """The error message for a node of a Redis Cluster."""
    return (
        f"expected a single Redis server or Sentinels at {where}, got a node of a Redis Cluster: "
        "use a server without cluster mode"
    )


def _cause(error: Exception) -> str:
    root: BaseException = error
    # Other errors in its context were being handled when Redis was asked.
    while isinstance(cause := root.__cause__ or root.__context__, OSError | redis.RedisError):
        root = cause
    return (root.strerror or str(root)) if isinstance(root, OSError) else str(root)
