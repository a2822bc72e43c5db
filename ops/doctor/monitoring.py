"""The check of monitoring and alerts in ``formrelay doctor``."""

from __future__ import annotations

from collections.abc import Iterator

from ...brokers import get_broker
from ...config import get_settings
from ...core.errors import ConfigError
from ..monitor.receivers import make_receivers
from .finding import Finding


def check_monitoring() -> Iterator[Finding]:
    """Check that alerts reach somebody; nothing is said about monitoring that is off."""
    settings = get_settings()
    try:
        names = [each.name for each in make_receivers(settings)]
    except ConfigError as error:
        yield Finding("monitoring", "bad", str(error))
        return
    if not settings.monitoring.enabled:
        if len(names) > 1:
            says = "receivers of alerts are set, but WORKER_MONITORING_ENABLED is not"
            yield Finding("monitoring", "weak", f"{says}: set it, or run formrelay monitor")
        return
    if get_broker().state is None:
        says = "one process of each machine monitors, and none knows error rates and workers"
        todo = "set STATE_URL to a Redis URL, or run one formrelay monitor instead"
        yield Finding("monitoring", "weak", f"{says}: {todo}")
    if names == ["log"]:
        says = "alerts go to the log alone: set ALERT_WEBHOOK_URL, ALERT_ALERTMANAGER_URL,"
        yield Finding("monitoring", "weak", f"{says} ALERT_SLACK_URL or ALERT_EMAIL_TO")
    elif all(name == "log" or name.startswith("email.") for name in names):
        says = "alerts go to e-mail alone, which cannot tell that SMTP is down"
        yield Finding("monitoring", "weak", f"{says}: add ALERT_WEBHOOK_URL or another receiver")
    else:
        yield Finding("monitoring", "ok", f"alerts go to {', '.join(names)}")
