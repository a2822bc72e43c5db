"""Checks the options of actors and messages, so that no option is ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq import Message
from dramatiq.results import Results

from ..core.errors import ConfigError, InvalidJob, InvalidPolicy
from ..middleware.delivery import CAUSED_BY
from ..middleware.exhausted import CALLBACKS, is_declared
from ..middleware.policies import check_retry_options
from .contract import LONGEST_DELAY, BrokerContract
from .event_loop import coroutine_function

#: Options of actors that Dramatiq's Results middleware defines. Brokers know them without that
#: middleware too, so that the check here says what to do.
OF_RESULTS = frozenset(("store_results", "result_ttl"))
#: Options of actors that have ``batch_size`` too.
OF_BATCHES = ("batch_weight", "batch_key", "batch_bytes")
_LIMITS = ("in_flight", "in_flight_total", "batch_size", "batch_bytes")
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


def check_actor(actor: dramatiq.Actor[Any, Any], broker: BrokerContract) -> None:
    """Check the options of an actor, except those of its retry policy.

    Raises:
        ConfigError: an option is wrong, or two options exclude each other.
    """
    wrong = _wrong_limit(actor) or _wrong_combination(actor, broker) or _wrong_option(actor.options)
    if wrong is not None:
        raise ConfigError(f"{actor.actor_name}: {wrong}")


def check_message(message: Message[Any], broker: BrokerContract) -> None:
    """Check the options of a message.

    Raises:
        InvalidJob: an option is wrong, or cannot work with the message's actor.
    """
    if not message.options:
        return
    name, options = message.actor_name, message.options
    try:
        check_retry_options(message)
    except InvalidPolicy as error:
        raise InvalidJob(f"{name}: {error}") from None
    actor = broker.actors.get(name)
    if actor is not None and "batch_size" in actor.options:
        for option in _ONE_BY_ONE:
            if options.get(option) is not None:
                raise InvalidJob(
                    f"expected no {option} on a message of {name!r}, which runs in batches, got one"
                )
    if wrong := _wrong_option(options) or _wrong_cause(options):
        raise InvalidJob(f"{name}: {wrong}")
    target = options.get("on_retry_exhausted")
    if target and not is_declared(broker, target):
        raise InvalidJob(
            f"{name}: expected on_retry_exhausted to name an actor of this program, got "
            f"{target!r}: import the module that declares it"
        )


def _wrong_limit(actor: dramatiq.Actor[Any, Any]) -> str | None:
    """Describe the first wrong limit: of messages in flight, or of a batch."""
    options = actor.options
    limits = {limit: options[limit] for limit in _LIMITS if limit in options}
    for limit, value in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"expected {limit} to be a whole number from 1 on, got {value!r}"
    if "in_flight" in limits and coroutine_function(actor.fn) is None:
        return (
            "expected an async def function with in_flight, got another: declare it as "
            "async def, or remove in_flight (worker threads limit the jobs of other functions)"
        )
    if "in_flight" in limits and limits.get("in_flight_total", math.inf) < limits["in_flight"]:
        return (
            "expected in_flight_total to be at least in_flight "
            f"({limits['in_flight']}), got {limits['in_flight_total']}"
        )
    if "in_flight_total" in limits and "in_flight" not in limits:
        return "expected in_flight as well as in_flight_total, got no in_flight"
    return None


def _wrong_combination(actor: dramatiq.Actor[Any, Any], broker: BrokerContract) -> str | None:
    """Describe options that exclude each other, or that an actor cannot have."""
    options = actor.options
    if not is_number(actor.priority):
        return f"expected priority to be a number, got {actor.priority!r}"
    if options.get("time_limit", 0) is None:
        return "expected time_limit to be milliseconds, got None: float('inf') means no limit"
    if "in_flight" in options and "batch_size" in options:
        return (
            "expected in_flight or batch_size, got both: an async actor takes its jobs one by one"
        )
    if "batch_size" in options and options.get("store_results"):
        return (
            "expected no store_results on an actor that runs in batches: its result is the "
            "batch's, not a message's"
        )
    if wrong := _wrong_batch(options):
        return wrong
    if "broker_priority" in options:
        return "expected broker_priority on a message (send_with_options), got it on the actor"
    of_results = sorted(OF_RESULTS.intersection(options))
    if of_results and not any(isinstance(each, Results) for each in broker.middleware):
        return (
            f"expected Dramatiq's Results middleware on the broker for {of_results[0]}, got none: "
            "call broker.add_middleware(Results(backend=...)) before the actor is declared"
        )
    return None


def _wrong_batch(options: Mapping[str, Any]) -> str | None:
    """Describe the first wrong option of an actor, whether it runs in batches or not."""
    given = [name for name in OF_BATCHES if options.get(name) is not None]
    if given and "batch_size" not in options:
        return f"expected batch_size as well as {given[0]}, got no batch_size"
    for name in given:
        if name != "batch_bytes" and not callable(options[name]):
            return (
                f"expected {name} to be a function of a message's keyword arguments, got "
                f"{options[name]!r}"
            )
    return None


def _wrong_option(options: Mapping[str, Any]) -> str | None:
    """Describe the first wrong option, of an actor or of a message."""
    limit, age = options.get("time_limit"), options.get("max_age")
    if limit is not None and not (is_number(limit) and limit > 0):
        return f"expected time_limit to be milliseconds, more than zero, got {limit!r}"
    if age is not None and not (is_number(age) and 0 <= age < math.inf):
        return f"expected max_age to be milliseconds, zero or more, got {age!r}"
    for name in CALLBACKS:
        target = options.get(name)
        if isinstance(target, dramatiq.Actor):
            return f"expected {name} to be the name of an actor, got the actor: use its actor_name"
        if target is not None and not isinstance(target, str):
            return f"expected {name} to be the name of an actor, got {target!r}"
    return None


def _wrong_cause(options: Mapping[str, Any]) -> str | None:
    cause = options.get(CAUSED_BY)
    if cause is None or isinstance(cause, str):
        return None
    return f"expected {CAUSED_BY} to be the id of a job, got {type(cause).__name__}"


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none, although they are integers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def priority_of(message: Message[Any]) -> int | None:
    """Return the option ``broker_priority`` of a message; None for 0 or without the option."""
    priority = message.options.get("broker_priority")
    if priority is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 9:
        raise InvalidJob(
            f"expected broker_priority to be a whole number from 0 to 9, got {priority!r}"
        )
    return priority or None


def due_of(message: Message[Any], delay: int | None, now: int) -> int | None:
    """Return when a message is due, unix milliseconds; None without a delay and an ``eta``."""
    due: int | None = None
    eta = message.options.get("eta")
    if eta is not None:
        if not is_number(eta) or not math.isfinite(eta):
            raise InvalidJob(f"expected eta to be unix milliseconds, got {eta!r}")
        due = int(eta)
    if delay is not None:
        if not is_number(delay) or not math.isfinite(delay):
            raise InvalidJob(f"expected delay to be milliseconds, got {delay!r}")
        due = now + int(delay)
    if due is not None and due - now > LONGEST_DELAY / timedelta(milliseconds=1):
        days = (due - now) / 86_400_000
        raise InvalidJob(f"expected a delay of at most {LONGEST_DELAY.days} days, got {days:,.0f}")
    return due
