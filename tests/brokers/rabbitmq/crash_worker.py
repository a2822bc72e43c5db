"""A worker process that tests kill: ``python crash_worker.py URL QUEUE QUEUE_TYPE FILE``.

Like ``tests/support/fault_worker.py``, with the type of the queue.
"""

from __future__ import annotations

import signal
import sys
from datetime import timedelta

from dramatiq import Worker

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from tests.support import fault_worker

OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1))


def main() -> None:
    url, queue, queue_type, file = sys.argv[1:]
    broker = RabbitBroker(url, options=OPTIONS, queue_type=queue_type)
    fault_worker.declare(broker, queue, file)
    # sigwait instead of a handler that sets an Event: if the signal arrives while this thread is
    # about to wait for the Event, the handler blocks for ever.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    worker = Worker(broker, worker_timeout=50, worker_threads=4)
    # Printed before the start, since the first message may kill the process.
    print("ready", flush=True)
    worker.start()
    signal.sigwait({signal.SIGTERM})
    worker.stop(timeout=10_000)
    broker.close()


if __name__ == "__main__":
    main()
