"""Sends failed attempts of a worker to Sentry if SENTRY_DSN is set."""

from __future__ import annotations

import logging
import sys
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from ...config import SentrySettings
from ...middleware import attempts
from ...middleware.sentry_events import clean_events, join_sentry

logger = logging.getLogger("formrelay.workers")

#: Seconds for which the end of a worker waits for the last events.
_FLUSH_SECONDS = 2.0


class SentryReports(Middleware):
    """Initialises sentry-sdk unless the program has; sends the last events before the end.

    A process of Dramatiq's command line does not run what ``atexit`` registers.
    """

    def __init__(self, settings: SentrySettings) -> None:
        self._settings = settings

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        dsn = self._settings.secret("dsn")
        if dsn is not None and start_sentry(dsn):
            join_sentry(broker, attempts.logger.name)
            clean_events(broker)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        sentry: Any = sys.modules.get("sentry_sdk")
        if sentry is not None:
            sentry.flush(timeout=_FLUSH_SECONDS)


def start_sentry(dsn: str) -> bool:
    """Initialise sentry-sdk; returns False if the program has, or if it is not installed."""
    try:
        import sentry_sdk
        from sentry_sdk.integrations.dramatiq import DramatiqIntegration
        from sentry_sdk.utils import BadDsn
    except ImportError:
        logger.warning(
            "SENTRY_DSN is set, but sentry-sdk is not installed: pip install 'formrelay[sentry]'"
        )
        return False
    if sentry_sdk.get_client().is_active():
        return False
    try:
        sentry_sdk.init(
            dsn=dsn,
            integrations=[DramatiqIntegration()],
            auto_enabling_integrations=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            max_request_body_size="never",
        )
    except BadDsn:  # its text may quote the DSN
        logger.error("SENTRY_DSN is no DSN: copy it from the settings of your project in Sentry")
        return False
    return True
