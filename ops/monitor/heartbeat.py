"""Sends a heartbeat to an outside service, which alerts when the heartbeats stop."""

from __future__ import annotations

import logging
import threading

from ...config import AlertSettings
from ...core.errors import SinkError, describe
from ...sinks.http.blocking import BlockingClient
from .receivers import send

logger = logging.getLogger("formrelay.alerts")


class Heartbeat:
    """Sends a GET request to ``ALERT_HEARTBEAT_URL``, if it is set, in a thread."""

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._client = BlockingClient(max_bytes=64 * 1024)
        self._thread: threading.Thread | None = None

    def beat(self) -> None:
        """Send a request, unless the last one still runs."""
        if self._settings.heartbeat_url is None:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(
            target=self._send, name="formrelay-alerts-heartbeat", daemon=True
        )
        self._thread.start()

    def _send(self) -> None:
        try:
            send(self._client, "GET", self._settings.secret("heartbeat_url") or "")
        except SinkError as error:
            about = {"error_message": describe(error)}
            logger.warning("cannot send the heartbeat of the monitor", extra=about)
