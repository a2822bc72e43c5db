"""Makes the retry policy of an attempt from the options of its message and its actor.

The order is Dramatiq's: an option of the message counts before the actor's, and the actor's before
the value of the broker's Retries middleware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from inspect import iscoroutinefunction
from math import inf
from typing import Any

import dramatiq
from dramatiq.middleware import Retries

from ..core.errors import InvalidPolicy
from ..core.retry import LONGEST_BACKOFF, Exponential, RetryPolicy, check_throws

#: Options of a message that change the policy of its actor.
_OF_MESSAGES = frozenset(("max_retries", "min_backoff", "max_backoff"))
#: Options that a ``policy`` replaces.
_OF_POLICIES = ("max_retries", "min_backoff", "max_backoff", "retry_when")
#: Options that only an actor can have, since JSON cannot hold a function or a class.
OF_ACTORS = ("retry_when", "throws")

_DEFAULT = Exponential()
#: The values of the Retries middleware unless the program adds one of its own.
DEFAULTS: Mapping[str, Any] = {
    "max_retries": RetryPolicy().max_attempts - 1,
    "min_backoff": int(_DEFAULT.base.total_seconds() * 1000),
    "max_backoff": int(_DEFAULT.cap.total_seconds() * 1000),
}


def policy_of(
    broker: dramatiq.Broker, actor_name: str, options: Mapping[str, Any] | None = None
) -> RetryPolicy:
    """The retry policy of an actor, changed by the options of a message.

    Raises:
        InvalidPolicy: an option of the message is of the wrong type or out of range.
    """
    actor = broker.get_actor(actor_name)
    policy: RetryPolicy = actor.options["policy"]
    if not options or _OF_MESSAGES.isdisjoint(options):
        return policy
    if "max_retries" in options and not isinstance(policy.should_retry, _RetryWhen):
        policy = policy.but(max_attempts=_attempts(options["max_retries"]))
    if "min_backoff" in options or "max_backoff" in options:
        own = policy.backoff if isinstance(policy.backoff, Exponential) else _DEFAULT
        policy = policy.but(backoff=_backoff(options, own))
    return policy


def make_policy(
    actor: dramatiq.Actor[Any, Any], policy: RetryPolicy | None, retries: Retries
) -> RetryPolicy:
    """Make the policy of an actor, when it is declared, so that wrong options are found then.

    Args:
        policy: the option ``policy``; None: it is made from Dramatiq's options.
        retries: its values count where the actor has none.

    Raises:
        InvalidPolicy: an option is of the wrong type or out of range.
    """
    try:
        throws = actor.options.get("throws")
        kinds = throws if isinstance(throws, tuple) else () if throws is None else (throws,)
        check_throws(kinds)
        both = [name for name in _OF_POLICIES if name in actor.options]
        if policy is None:
            policy = _from_stock_options(actor.options, retries)
        elif both:
            raise InvalidPolicy(f"expected policy or {both[0]}, got both")
        if kinds and isinstance(policy, RetryPolicy):
            policy = policy.but(throws=policy.throws + kinds)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidPolicy(f"{actor.actor_name}: {error}") from None
    if not isinstance(policy, RetryPolicy):
        raise InvalidPolicy(
            f"expected the policy of {actor.actor_name} to be a RetryPolicy, "
            f"got {type(policy).__name__}"
        )
    return policy


def _from_stock_options(options: dict[str, Any], retries: Retries) -> RetryPolicy:
    """Make a policy from the options of Dramatiq's Retries middleware."""
    own = Exponential(
        base=_milliseconds({"min_backoff": retries.min_backoff}, "min_backoff"),
        cap=_milliseconds({"max_backoff": retries.max_backoff}, "max_backoff"),
    )
    policy = RetryPolicy(
        max_attempts=_attempts(options.get("max_retries", retries.max_retries)),
        backoff=_backoff(options, own),
    )
    retry_when: Callable[[int, BaseException], bool] | None = options.get(
        "retry_when", retries.retry_when
    )
    if retry_when is None:
        return policy
    if not callable(retry_when) or iscoroutinefunction(retry_when):
        raise InvalidPolicy(
            "expected retry_when to be a function of (retries, error) that is not async, "
            f"got {retry_when!r}"
        )
    return policy.but(max_attempts=2**31, should_retry=_RetryWhen(retry_when))


class _RetryWhen:
    """Decides by ``retry_when`` alone: as in stock Dramatiq, no ``max_retries`` counts."""

    def __init__(self, retry_when: Callable[[int, BaseException], bool]) -> None:
        self._retry_when = retry_when

    def __call__(self, error: BaseException, attempt: int) -> bool:
        return self._retry_when(attempt - 1, error)


def _backoff(options: Mapping[str, Any], own: Exponential) -> Exponential:
    """Exponential back-off by ``min_backoff`` and ``max_backoff``.

    Args:
        own: the values without options. Its cap does not limit a ``min_backoff`` without
            ``max_backoff``, which has Dramatiq's cap of 7 days.
    """
    base, cap = own.base, own.cap
    if "min_backoff" in options:
        base, cap = _milliseconds(options, "min_backoff"), LONGEST_BACKOFF
    if "max_backoff" in options:
        cap = min(_milliseconds(options, "max_backoff"), LONGEST_BACKOFF)
    return Exponential(base, cap)


def _milliseconds(options: Mapping[str, Any], name: str) -> timedelta:
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        raise InvalidPolicy(f"expected {name} to be milliseconds, zero or more, got {value!r}")
    # Limited first: a huge number overflows a timedelta.
    return timedelta(milliseconds=min(value, LONGEST_BACKOFF // timedelta(milliseconds=1)))


def _attempts(retries: Any) -> int:
    if retries is None:
        return 2**31
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidPolicy(
            f"expected max_retries to be a whole number, zero or more, or None, got {retries!r}"
        )
    return 1 + retries


def check_retry_options(message: dramatiq.Message[Any]) -> None:
    """Check the retry options of a message.

    Raises:
        InvalidPolicy: an option is of the wrong type, out of range, or for actors only.
    """
    options = message.options
    for name in OF_ACTORS:
        if options.get(name) is not None:
            raise InvalidPolicy(f"expected {name} on the actor, got it on a message")
    if not _OF_MESSAGES.isdisjoint(options):
        if "max_retries" in options:
            _attempts(options["max_retries"])
        _backoff(options, _DEFAULT)
