"""A monitor in a process of its own: ``program.py REDIS_URL RECEIVER_URL NAME [die]``.

Its receiver is a webhook. With ``die``, the process kills itself instead of delivering its first
alert: after the outbox was written, and before anything was sent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from threading import Event

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.monitor.messages import Notification
from formrelay.ops.monitor.monitor import Monitor
from formrelay.ops.monitor.receivers import make_receivers
from tests.ops.monitor.watched import settings_of


class Dying:
    """A receiver that ends the process without a trace."""

    name = "webhook"

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def refresh(self, notifications: Sequence[Notification], now: float) -> None:
        """Do nothing."""


def main(redis_url: str, receiver_url: str, dies: bool) -> None:
    settings = settings_of(
        ALERT_WEBHOOK_URL=receiver_url,
        ALERT_WEBHOOK_SECRET="whsec_YWxlcnRz",
        WORKER_MONITORING_INTERVAL="200",
    )
    receivers = [each for each in make_receivers(settings) if each.name == "webhook"]
    monitor = Monitor(RedisBroker(redis_url), settings, receivers=[Dying()] if dies else receivers)
    # A busy machine must not lose the lease between two looks.
    monitor._lasts = timedelta(seconds=4)
    monitor.start()
    print("started", flush=True)
    Event().wait()


main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["die"])
