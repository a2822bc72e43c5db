"""Makes the retry policy of each actor from its options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from inspect import iscoroutinefunction
from math import inf
from typing import Any

import dramatiq

from ..core.errors import InvalidPolicy
from ..core.retry import Exponential, RetryPolicy


def policy_of(broker: dramatiq.Broker, actor_name: str) -> RetryPolicy:
    """The retry policy of an actor."""
    actor = broker.get_actor(actor_name)
    if "policy" not in actor.options:  # declared on a foreign broker
        give_policy(actor)
    policy: RetryPolicy = actor.options["policy"]
    return policy


def give_policy(actor: dramatiq.Actor[Any, Any]) -> None:
    """Set the option ``policy`` of an actor; without it, make one from Dramatiq's options.

    Called when the actor is declared, so that a wrong option is found before a message fails.

    Raises:
        InvalidPolicy: an option is of the wrong type or out of range.
    """
    policy = actor.options.get("policy")
    try:
        _throws(actor.options.get("throws"))
        actor.options["policy"] = _from_stock_options(actor.options) if policy is None else policy
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidPolicy(f"{actor.actor_name}: {error}") from None
    if not isinstance(actor.options["policy"], RetryPolicy):
        raise InvalidPolicy(
            f"expected the policy of {actor.actor_name} to be a RetryPolicy, "
            f"got {type(policy).__name__}"
        )


def _from_stock_options(options: dict[str, Any]) -> RetryPolicy:
    """Make a policy from the options of Dramatiq's Retries middleware."""
    default = Exponential()
    backoff = Exponential(
        base=_milliseconds(options, "min_backoff", default.base),
        cap=_milliseconds(options, "max_backoff", default.cap),
    )
    policy = RetryPolicy(backoff=backoff)
    if "max_retries" in options:
        policy = policy.but(max_attempts=_attempts(options["max_retries"]))
    throws = _throws(options.get("throws"))
    retry_when: Callable[[int, BaseException], bool] | None = options.get("retry_when")
    if retry_when is not None and (not callable(retry_when) or iscoroutinefunction(retry_when)):
        raise InvalidPolicy(
            "expected retry_when to be a function of (retries, error) that is not async, "
            f"got {retry_when!r}"
        )
    if throws or retry_when:

        def should_retry(error: BaseException, attempt: int) -> bool:
            if throws and isinstance(error, throws):
                return False
            return retry_when is None or retry_when(attempt - 1, error)

        policy = policy.but(should_retry=should_retry)
        if retry_when is not None:  # in stock Dramatiq it replaces max_retries
            policy = policy.but(max_attempts=2**31)
    return policy


def _milliseconds(options: dict[str, Any], name: str, default: timedelta) -> timedelta:
    if name not in options:
        return default
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise InvalidPolicy(f"expected {name} to be milliseconds, zero or more, got {value!r}")
    return timedelta(milliseconds=value)


def _attempts(retries: Any) -> int:
    if retries is None:
        return 2**31
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidPolicy(
            f"expected max_retries to be a whole number, zero or more, or None, got {retries!r}"
        )
    return 1 + retries


def _throws(value: Any) -> tuple[type[BaseException], ...]:
    # Dramatiq's worker reads the option too; a wrong value would end its thread.
    kinds = value if isinstance(value, tuple) else () if value is None else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidPolicy(
                f"expected throws to be an exception class or a tuple of them, got {value!r}"
            )
    return kinds
