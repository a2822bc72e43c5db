"""One tree of settings, read from the environment in one place.

``Settings.load()`` reads it; everything else gets a section of it as an
argument. Importing this package reads nothing.
"""

from __future__ import annotations

from .current import get_settings, use_settings, use_source
from .sections import (
    ApiSettings,
    BrokerSettings,
    ClickhouseSettings,
    EmbeddedSettings,
    LoggingSettings,
    MonitoringSettings,
)
from .settings import Settings
from .workers import (
    EmailSettings,
    EventSettings,
    PartialSettings,
    SheetsSettings,
    SubmissionSettings,
    WebhookSettings,
    WorkerSettings,
)

__all__ = [
    "ApiSettings",
    "BrokerSettings",
    "ClickhouseSettings",
    "EmailSettings",
    "EmbeddedSettings",
    "EventSettings",
    "LoggingSettings",
    "MonitoringSettings",
    "PartialSettings",
    "Settings",
    "SheetsSettings",
    "SubmissionSettings",
    "WebhookSettings",
    "WorkerSettings",
    "get_settings",
    "use_settings",
    "use_source",
]
