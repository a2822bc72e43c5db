"""The app configuration."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType

import dramatiq.broker
from django import VERSION
from django.apps import AppConfig

from ..brokers import get_broker
from ..config import use_source
from ..core.errors import FormrelayError
from . import conf


class FormrelayConfig(AppConfig):
    """Makes formrelay read the setting ``FORMRELAY``.

    Attributes:
        is_in_time: whether the app was loaded before formrelay's configuration was read.
    """

    name = "formrelay.djangoapp"
    label = "formrelay"
    verbose_name = "formrelay"

    def __init__(self, app_name: str, app_module: ModuleType) -> None:
        super().__init__(app_name, app_module)
        # Not in ready(): a models.py may use formrelay before that.
        self.is_in_time = use_source(conf.load)

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers them
        from .outbox import watch_setting

        if VERSION >= (6, 0):
            import django.tasks  # noqa: F401 - registers Django's check of TASKS

        if dramatiq.broker.global_broker is None:
            # Without a global broker, the first plain @dramatiq.actor would create Dramatiq's
            # default, RabbitMQ on localhost. Errors are left to the checks and to enqueue(),
            # because a project without a broker must be able to migrate.
            with suppress(FormrelayError):
                get_broker()
        watch_setting()
