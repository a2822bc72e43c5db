"""The start of a worker process: say what is wrong in one line, or start.

``dramatiq formrelay.worker`` imports this through :mod:`formrelay.worker`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.middleware import Middleware

from ..brokers import RelayBroker, get_broker
from ..config import get_settings
from ..core.errors import ConfigError, FormrelayError, SinkTransient, SinkUnavailable
from .logs import setup_logging

logger = logging.getLogger("formrelay.workers")

#: Exit statuses: the thing asked about is not fine; wrong use.
NOT_FINE, WRONG_USE = 1, 2


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one readable line for what a user can mend; no traceback."""
    try:
        yield
    except FormrelayError as error:
        for line in str(error).splitlines():
            print(f"formrelay: {line}", file=sys.stderr)
        sys.exit(WRONG_USE if isinstance(error, ConfigError) else NOT_FINE)


def boot() -> RelayBroker:
    """Read the configuration, set up logs, declare the actors, reach the broker."""
    with one_line_errors():
        setup_logging(get_settings().logging)
        from .. import actors  # noqa: F401 - declares them; only now is it known that it can

        broker = get_broker()
        broker.ping()
    broker.add_middleware(_SinksAtBoot())
    return broker


class _SinksAtBoot(Middleware):
    """Looks at the sinks of the queues that this worker consumes, before it takes a job.

    A wrong password is better found here than by the first thousand events. A
    sink that is merely away stops nobody: its jobs wait for it.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        events = get_settings().events.queue
        if worker.consumer_whitelist and events not in worker.consumer_whitelist:
            return
        with one_line_errors():
            self._look_at_clickhouse()

    def _look_at_clickhouse(self) -> None:
        from ..actors.sinks import clickhouse
        from ..sinks.clickhouse import migrate

        url = get_settings().clickhouse.secret("url")
        if url is None:
            raise ConfigError(
                "expected CLICKHOUSE_URL for the queue of events, got none: set it, or name "
                "the queues of this worker with --queues"
            )
        try:
            client = clickhouse()
            client.ping()
            if url.startswith("chdb://"):
                migrate.apply(client)  # nobody else could: it is open in this process alone
        except SinkUnavailable as error:
            logger.warning("a sink is away", extra={"sink": "clickhouse", "why": str(error)})
        except SinkTransient as error:
            if error.code is None:
                raise
            raise ConfigError(str(error)) from None
