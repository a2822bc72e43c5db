"""``dramatiq formrelay.worker`` starts workers: configuration, logs, broker, actors."""

import dramatiq

from .ops.worker.boot import boot

broker = boot()
dramatiq.set_broker(broker)
