"""What Django knows of formrelay."""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType

import dramatiq.broker
from django.apps import AppConfig

from ..brokers import get_broker
from ..config import use_source
from ..core.errors import FormrelayError
from . import conf


class FormrelayConfig(AppConfig):
    """See the package.

    Attributes:
        is_in_time: whether nobody had read formrelay's configuration before the app was loaded.
    """

    name = "formrelay.djangoapp"
    label = "formrelay"
    verbose_name = "formrelay"

    def __init__(self, app_name: str, app_module: ModuleType) -> None:
        super().__init__(app_name, app_module)
        # Here and not in ready(): any models.py may import formrelay.actors before that.
        self.is_in_time = use_source(conf.load)

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers them

        if dramatiq.broker.global_broker is None:
            # Else the first plain @dramatiq.actor of the project would make Dramatiq's default,
            # a RabbitMQ on localhost, and land on that. What is wrong is said by the checks
            # and by whoever sends: a project without a broker must still migrate.
            with suppress(FormrelayError):
                get_broker()
