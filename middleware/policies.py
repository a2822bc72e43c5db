"""The retry policy of each actor, from its options."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dramatiq

from ..core.errors import ConfigError
from ..core.retry import Exponential, RetryPolicy


class InvalidPolicy(ConfigError):
    """The options of an actor make no retry policy."""


def policy_of(broker: dramatiq.Broker, actor_name: str) -> RetryPolicy:
    """The retry policy of an actor, as :func:`give_policy` made it."""
    actor = broker.get_actor(actor_name)
    if "policy" not in actor.options:  # declared on a broker of somebody else's
        give_policy(actor)
    policy: RetryPolicy = actor.options["policy"]
    return policy


def give_policy(actor: dramatiq.Actor[Any, Any]) -> None:
    """Make the retry policy of an actor: its ``policy`` option, or one of stock options.

    Called when the actor is declared: an option that is wrong is better found
    there than by the first message that fails.

    Raises:
        InvalidPolicy: an option is of the wrong type.
    """
    policy = actor.options.get("policy")
    try:
        actor.options["policy"] = _from_stock_options(actor.options) if policy is None else policy
    except TypeError as error:
        raise InvalidPolicy(f"{actor.actor_name}: {error}") from None
    if not isinstance(actor.options["policy"], RetryPolicy):
        raise InvalidPolicy(
            f"expected the policy of {actor.actor_name} to be a RetryPolicy, "
            f"got {type(policy).__name__}"
        )


def _from_stock_options(options: dict[str, Any]) -> RetryPolicy:
    """Dramatiq's bare milliseconds end here."""
    policy = RetryPolicy()
    backoff = Exponential()
    if "min_backoff" in options:
        backoff = Exponential(base=timedelta(milliseconds=options["min_backoff"]), cap=backoff.cap)
    if "max_backoff" in options:
        backoff = Exponential(base=backoff.base, cap=timedelta(milliseconds=options["max_backoff"]))
    policy = policy.but(backoff=backoff)
    if "max_retries" in options:
        retries = options["max_retries"]
        policy = policy.but(max_attempts=1 + retries if retries is not None else 2**31)
    throws = options.get("throws") or ()
    retry_when: Callable[[int, BaseException], bool] | None = options.get("retry_when")
    if throws or retry_when:

        def should_retry(error: BaseException, attempt: int) -> bool:
            if throws and isinstance(error, throws):
                return False
            return retry_when is None or retry_when(attempt - 1, error)

        policy = policy.but(should_retry=should_retry)
        if retry_when is not None:  # in stock Dramatiq it replaces the count
            policy = policy.but(max_attempts=2**31)
    return policy
