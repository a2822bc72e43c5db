"""``dramatiq formrelay.worker`` starts workers: configuration, logs, broker, actors."""

from formrelay.ops.boot import boot

broker = boot()
