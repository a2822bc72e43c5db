"""Reads formrelay's settings in the project."""

from __future__ import annotations

from typing import Any

from django.apps import apps

from formrelay.config import get_settings
from formrelay.djangoapp import enqueue


def of_each_kind() -> list[Any]:
    settings = get_settings()
    return [
        settings.broker.secret("redis_url"),
        settings.webhooks.max_retries,
        settings.api.url,
        settings.api.secret("token"),
        settings.worker_concurrency,
    ]


def of_plain_types() -> list[Any]:
    settings = get_settings()
    return [
        settings.webhooks.allow_http,
        settings.monitoring.enabled,
        settings.broker.connect_timeout.total_seconds(),
        str(settings.embedded.data_dir),
        settings.api.token,
    ]


def error_of_enqueue() -> list[str]:
    try:
        enqueue("save_submission", {})
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def app() -> list[Any]:
    found = apps.get_app_config("formrelay")
    return [found.name, found.verbose_name, list(found.get_models())]
