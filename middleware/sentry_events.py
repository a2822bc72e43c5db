"""Makes Sentry's DramatiqIntegration work with a broker as with Dramatiq's brokers."""

from __future__ import annotations

import sys
from typing import Any

import dramatiq


def join_sentry(broker: dramatiq.Broker, attempt_logger: str) -> None:
    """Give Sentry one event for each failed attempt; does nothing if Sentry is not used.

    The integration adds its middleware to brokers that are made after ``sentry_sdk.init``.
    ``formrelay worker --import MODULE`` makes the broker before, so it is added here.

    Args:
        attempt_logger: logger of the line of an attempt. Sentry ignores it, because the line
            would be a second event for the error of the attempt.
    """
    integration: Any = sys.modules.get("sentry_sdk.integrations.dramatiq")
    if integration is None:
        return
    client = sys.modules["sentry_sdk"].get_client()
    if client.get_integration(integration.DramatiqIntegration) is None:
        return
    if not any(isinstance(each, integration.SentryMiddleware) for each in broker.middleware):
        first = type(broker.middleware[0])
        broker.add_middleware(integration.SentryMiddleware(), before=first)
    sys.modules["sentry_sdk.integrations.logging"].ignore_logger(attempt_logger)
