"""Settings whose FORMRELAY has values of several types."""

from pathlib import Path

from hostsite.settings import *

FORMRELAY = {
    "REDIS_URL": "redis://h",
    "WEBHOOK_ALLOW_HTTP": True,
    "API_TOKEN": None,
    "WORKER_MONITORING_ENABLED": False,
    "BROKER_CONNECT_TIMEOUT_SECONDS": 1.5,
    "EMBEDDED_DATA_DIR": Path("/x/y"),
}
