"""The settings: one tree, read from the environment in one place.

``Settings.load()`` reads it; all other code gets a group of settings as an argument. Importing
this package reads nothing.
"""

from __future__ import annotations

from .alerts import AlertSettings, MonitoringSettings
from .broker import BrokerSettings, EmbeddedSettings
from .dashboard import DashboardSettings
from .emails import EmailSettings, SmtpSettings
from .encryption import EncryptionSettings
from .observability import LoggingSettings, SystemdSettings
from .settings import Settings, allow_no_broker, get_settings, use_settings, use_source
from .sheets import SheetsSettings
from .sinks import ApiSettings, ClickhouseSettings
from .tracing import SentrySettings, TracingSettings
from .worker_http import WorkerHttpSettings
from .workers import (
    EventSettings,
    PartialSettings,
    RecyclingSettings,
    SubmissionSettings,
    WebhookSettings,
    WorkerSettings,
)

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "BrokerSettings",
    "ClickhouseSettings",
    "DashboardSettings",
    "EmailSettings",
    "EmbeddedSettings",
    "EncryptionSettings",
    "EventSettings",
    "LoggingSettings",
    "MonitoringSettings",
    "PartialSettings",
    "RecyclingSettings",
    "SentrySettings",
    "Settings",
    "SheetsSettings",
    "SmtpSettings",
    "SubmissionSettings",
    "SystemdSettings",
    "TracingSettings",
    "WebhookSettings",
    "WorkerHttpSettings",
    "WorkerSettings",
    "allow_no_broker",
    "get_settings",
    "use_settings",
    "use_source",
]
