"""Checks the options of actors and messages, so that no option is ignored."""

from __future__ import annotations

import math
from typing import Any

import dramatiq
from dramatiq import Message

from ..core.errors import ConfigError, InvalidJob, InvalidPolicy
from ..middleware.policies import check_retry_options
from .event_loop import coroutine_function

_LIMITS = ("in_flight", "in_flight_total", "batch_size")
#: Options that Dramatiq's middleware reads from the message that runs, which in a batch is none of
#: the messages that were sent.
_ONE_BY_ONE = (
    "pipe_target",
    "on_success",
    "on_failure",
    "on_retry_exhausted",
    "max_age",
    "group_completion_uuid",
    "group_completion_callbacks",
    "store_results",
    "max_retries",
    "min_backoff",
    "max_backoff",
    "time_limit",
)


def check_actor(actor: dramatiq.Actor[Any, Any]) -> None:
    """Check the options of an actor, except those of its retry policy.

    Raises:
        ConfigError: an option is wrong, or two options exclude each other.
    """
    options, name = actor.options, actor.actor_name
    limits = {limit: options[limit] for limit in _LIMITS if limit in options}
    for limit, value in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"{name}: expected {limit} to be a whole number from 1 on, got {value!r}"
            )
    if "in_flight" in limits and coroutine_function(actor.fn) is None:
        raise ConfigError(
            f"{name}: expected an async def function with in_flight, got another: declare it as "
            "async def, or remove in_flight (worker threads limit the jobs of other functions)"
        )
    if "in_flight" in limits and limits.get("in_flight_total", math.inf) < limits["in_flight"]:
        raise ConfigError(
            f"{name}: expected in_flight_total to be at least in_flight "
            f"({limits['in_flight']}), got {limits['in_flight_total']}"
        )
    if "in_flight_total" in limits and "in_flight" not in limits:
        raise ConfigError(
            f"{name}: expected in_flight as well as in_flight_total, got no in_flight"
        )
    if "in_flight" in limits and "batch_size" in limits:
        raise ConfigError(
            f"{name}: expected in_flight or batch_size, got both: an async actor takes its jobs "
            "one by one"
        )
    if "batch_size" in limits and options.get("store_results"):
        raise ConfigError(
            f"{name}: expected no store_results on an actor that runs in batches: its result is "
            "the batch's, not a message's"
        )
    age = options.get("max_age")
    is_number = isinstance(age, int | float) and not isinstance(age, bool)
    if age is not None and not (is_number and 0 <= age < math.inf):
        raise ConfigError(f"{name}: expected max_age to be milliseconds, zero or more, got {age!r}")


def check_message(message: Message[Any], actor: dramatiq.Actor[Any, Any] | None) -> None:
    """Check the options of a message.

    Raises:
        InvalidJob: an option is wrong, or cannot work with the message's actor.
    """
    if not message.options:
        return
    try:
        check_retry_options(message)
    except InvalidPolicy as error:
        raise InvalidJob(f"{message.actor_name}: {error}") from None
    if actor is None or "batch_size" not in actor.options:
        return
    for name in _ONE_BY_ONE:
        if message.options.get(name) is not None:
            raise InvalidJob(
                f"expected no {name} on a message of {message.actor_name!r}, which runs in "
                "batches, got one"
            )
