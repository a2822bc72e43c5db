"""formrelay's broker for django-dramatiq: ``"BROKER": "formrelay.djangoapp.dramatiq_broker"``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dramatiq.middleware import Middleware

from ..brokers import RelayBroker, get_broker
from ..config import use_source
from . import conf


def dramatiq_broker(middleware: Iterable[Middleware] = (), **options: Any) -> RelayBroker:
    """Return the broker that the setting ``FORMRELAY`` configures.

    django-dramatiq calls it while Django loads the apps, before or after formrelay's app.

    Args:
        middleware: the ``MIDDLEWARE`` of ``DRAMATIQ_BROKER``.
        options: its ``OPTIONS``; must be empty.

    Raises:
        ConfigError, BrokerRefused, BrokerUnavailable: as :func:`.brokers.get_broker`.
    """
    use_source(conf.load)
    return get_broker(middleware=middleware, **options)
