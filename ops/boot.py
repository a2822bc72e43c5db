"""The start of a worker process: say what is wrong in one line, or start.

``dramatiq formrelay.worker`` imports this through :mod:`formrelay.worker`.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import dramatiq
from dramatiq.middleware import Middleware

from .. import actors
from ..brokers import RelayBroker, get_broker
from ..config import get_settings
from ..core.errors import (
    ConfigError,
    FormrelayError,
    InvalidJob,
    SinkBusy,
    SinkTransient,
    SinkUnavailable,
)
from .logs import setup_logging

logger = logging.getLogger("formrelay.workers")

#: Exit statuses: the thing asked about is not fine; wrong use.
NOT_FINE, WRONG_USE = 1, 2
#: A parameter of glibc's ``mallopt``.
_M_ARENA_MAX = -8


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one readable line for what a user can mend; no traceback."""
    try:
        yield
    except FormrelayError as error:
        from .output import say_error  # a worker that starts well needs no part of it

        for line in str(error).split("\n"):
            say_error(f"formrelay: {line}")
        sys.exit(exit_status(error))


def exit_status(error: FormrelayError) -> int:
    """What a command ends with that stumbled over ``error``."""
    return WRONG_USE if isinstance(error, ConfigError | InvalidJob) else NOT_FINE


def declare_actors() -> None:
    """Declare every actor, and with it its queue, on this process's broker."""
    actors.declare_actors()


def boot(declare: Callable[[], None] = declare_actors) -> RelayBroker:
    """Read the configuration, set up logs, declare the actors, reach the broker."""
    with one_line_errors():
        setup_logging(get_settings().logging)
        declare()
        broker = get_broker()
        broker.ping(())  # the queues when they are known: this worker's alone
    broker.add_middleware(_AtBoot())
    return broker


class _AtBoot(Middleware):
    """Looks at the sinks of the queues that this worker consumes, before it takes a job."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        assert isinstance(broker, RelayBroker)
        with one_line_errors():
            check_queues(worker.consumer_whitelist)
            broker.ping(worker.consumer_whitelist or None)
            check_sinks(worker.consumer_whitelist)
        calm_garbage_collector()
        limit_malloc_arenas()


def calm_garbage_collector() -> None:
    """Have Python look for cycles seldom, and never among what is there for good.

    As it comes, it walks through all modules and schemas again and again, while messages, of
    which hardly one is part of a cycle, come and go: a tenth of what a webhook costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(300_000, 20, 50)


def limit_malloc_arenas() -> None:
    """Let the threads share two heaps of glibc's malloc, instead of up to eight a core.

    What a thread frees goes back to the heap that it came from, and stays there. A batch of
    10,000 events is allocated by one thread and freed by another, so that each heap grows as
    large as the largest batch: 45 MB more for 8 threads. The GIL lets few threads allocate at
    the same time, so that sharing costs nothing. Does nothing where there is no glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def check_sinks(queues: Collection[str] | None) -> None:
    """Check the sinks behind ``queues`` (None: all of them).

    A wrong password is better found here than by the first thousand events. A
    sink that is merely away stops nobody: its jobs wait for it.

    Raises:
        ConfigError: a sink is not configured, or refuses us.
    """
    settings = get_settings()
    if not queues or {settings.submissions.queue, settings.partials.queue} & set(queues):
        from ..actors.resources import api

        api()
    if not queues or settings.events.queue in queues:
        _check_clickhouse()


def check_queues(queues: Collection[str] | None) -> None:
    """Check that every queue that is named is one of ours.

    Raises:
        ConfigError: one is not; a worker would wait on it for ever.
    """
    known = get_broker().queues
    for queue in queues or ():
        if queue not in known:
            raise ConfigError(f"expected a queue ({', '.join(sorted(known))}), got {queue!r}")


def _check_clickhouse() -> None:
    from ..actors.resources import clickhouse, clickhouse_schema
    from ..sinks.clickhouse import migrate

    settings = get_settings()
    url = settings.clickhouse.secret("url")
    if url is None:
        raise ConfigError(
            "expected CLICKHOUSE_URL for the queue of events, got none: set it, or name "
            "the queues of this worker (formrelay worker --queue, dramatiq --queues)"
        )
    try:
        client = clickhouse()
        client.ping()
        if is_embedded_clickhouse(url):
            # Nobody else could: it is open in this process alone.
            migrate.apply(client, clickhouse_schema())
    except (SinkUnavailable, SinkBusy) as error:
        logger.warning("a sink is away", extra={"sink": "clickhouse", "why": str(error)})
    except SinkTransient as error:
        # It answered, and refuses what we are: no use in starting.
        raise ConfigError(str(error)) from None


def is_embedded_clickhouse(url: str | None) -> bool:
    """Whether the ClickHouse is in the process, and so in one process only."""
    return (url or "").startswith("chdb://")
