"""Keeps jobs instead of sending them, for tests: ``FORMRELAY_KEEP_JOBS = True``.

Works like ``django.core.mail.outbox``. Jobs are checked as usual, by ``enqueue`` and by ``send``;
no connection to the broker is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from dramatiq import Message

from ..brokers import get_broker
from ..brokers.envelope import Envelope
from ..core.errors import ConfigError, FormrelayError

_SETTING = "FORMRELAY_KEEP_JOBS"
_METHOD = "_put"

#: The jobs that were kept, in the order of sending. A test empties it.
kept_jobs: list[Message[Any]] = []


def keeps_jobs() -> bool:
    """Whether jobs are kept instead of sent.

    Raises:
        ConfigError: the setting is neither True nor False.
    """
    value = getattr(settings, _SETTING, False)
    if not isinstance(value, bool):
        raise ConfigError(f"expected {_SETTING} to be True or False, got {value!r}")
    return value


def check_sends_jobs() -> None:
    """Check that jobs are sent, which a worker needs.

    Raises:
        ConfigError: jobs are kept.
    """
    if keeps_jobs():
        raise ConfigError(
            f"expected {_SETTING} to be False for a worker, got True: its jobs could not send "
            "other jobs; the setting is for tests"
        )


def watch_setting() -> None:
    """Keep or send jobs as the setting says, also when a test overrides it."""
    setting_changed.connect(_on_change, dispatch_uid="formrelay.outbox")
    if getattr(settings, _SETTING, False):
        with suppress(FormrelayError):  # reported by the checks, and by the first job
            _apply()


def _on_change(*, setting: str, **_: Any) -> None:
    if setting == _SETTING:
        _apply()


def _apply() -> None:
    broker = get_broker()
    if keeps_jobs():
        # On this broker alone: the one method with which brokers write messages of senders.
        setattr(broker, _METHOD, _keep)
    else:
        vars(broker).pop(_METHOD, None)
        kept_jobs.clear()


def _keep(envelopes: Sequence[Envelope], **_: bool) -> None:
    kept_jobs.extend(envelope.message for envelope in envelopes)
