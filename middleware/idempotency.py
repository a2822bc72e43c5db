"""A job of one key runs once, however often and by whomever it is sent.

Before the actor a lock is taken under the key; after it, its result is kept there for a day. A
second job of the key waits while the first one runs, and then has its result without running.
The lock is renewed while the actor runs and ends by itself where a worker dies.

It makes the second run unlikely, not impossible: a worker that stands still for longer than the
lock lasts loses it. What must never happen twice needs the other side's help as well.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from functools import wraps
from typing import Any
from uuid import uuid4

import dramatiq
import orjson
from dramatiq.middleware import CurrentMessage, Middleware, SkipMessage

from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import BrokerError, ConfigError, describe
from ..core.outcomes import Dead, Defer
from ..state.idempotency import Claim, Held, Known, Once
from .delivery import Delivery
from .locks import Locks
from .outcomes import decide

logger = logging.getLogger("formrelay.workers")

#: How long a job of a key that runs elsewhere is left alone before it is looked at again.
_LOOK_AGAIN = timedelta(seconds=1)
#: Seconds between two lines about a store that is away.
_TELL_AGAIN = 30.0


class Idempotency(Middleware):
    """See the module. Stands before the last check, so that who runs has the lock."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._locks = Locks(clock=clock)
        self._told_at: float | None = None

    @property
    def actor_options(self) -> set[str]:
        """``idempotency``: a :class:`Once`."""
        return {"idempotency"}

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery) or (keyed := _keyed(broker, message)) is None:
            return
        once, key = keyed
        try:
            claim = _claim(broker, once, key)
            found = claim.store.begin(key, claim.owner, claim.lock)
        except (BrokerError, ConfigError, OSError) as error:  # without its lock no job may run
            why = describe(error)
            self._alert(why)
            message.outcome = Defer(_LOOK_AGAIN, why)
            raise SkipMessage(why) from error
        except Exception as error:
            # Not an outage, which passes: the job has failed, and in the end that is seen.
            message.outcome = decide(broker, message, error, self._clock.time())
            if isinstance(message.outcome, Dead):
                message.fail()
            raise SkipMessage(describe(error)) from error
        if isinstance(found, Held):
            why = "a job of the same key is running"
            message.outcome = Defer(min(found.ends_in, _LOOK_AGAIN), why)
            raise SkipMessage(why)
        if isinstance(found, Known):
            claim.known = found.result
        else:
            self._locks.hold(claim)
        message.claim = claim

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        claim = message.claim if isinstance(message, Delivery) else None
        if claim is None:
            return
        assert isinstance(message, Delivery)
        if claim.known is not None:
            message.fields = {**(message.fields or {}), "is_repeat": True}
            return
        self._locks.forget(claim)
        about = {"actor": message.actor_name, "message_id": message.message_id}
        try:
            if exception is not None:
                claim.store.release(claim.key, claim.owner)
            elif not claim.store.finish(
                claim.key, claim.owner, _as_json(result, about), claim.keep
            ):
                logger.warning("a lock was lost while its job ran", extra=about)
        except Exception as error:
            # The work is done or will be tried again; the lock ends by itself.
            about["error_message"] = describe(error)
            logger.warning("what became of a job cannot be kept by its key", extra=about)

    def _alert(self, why: str) -> None:
        """Say that jobs wait, and say it again while they do, but not for each."""
        now = self._clock.monotonic()
        if self._told_at is None or now >= self._told_at + _TELL_AGAIN:
            self._told_at = now
            logger.error("jobs that give a key wait for the state store", extra={"error": why})

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """The last check put it off."""
        if isinstance(message, Delivery) and message.claim is not None:
            self.after_process_message(broker, message, exception=SkipMessage())


def remember(actor: dramatiq.Actor[Any, Any]) -> None:
    """Have an actor that has the option ``idempotency`` give a result that is known.

    Raises:
        ValueError: it takes batches, or waits without its thread.
    """
    if actor.options.get("idempotency") is None:
        return
    for other in ("batch_size", "in_flight"):
        if actor.options.get(other) is not None:
            raise ValueError(
                f"expected {actor.actor_name} to run one job at a time in its thread for "
                f"idempotency=…, got {other} as well: give what it does an id of its own"
            )
    run = actor.fn

    @wraps(run)
    def run_or_remember(*args: Any, **kwargs: Any) -> Any:
        message = CurrentMessage.get_current_message()
        claim = message.claim if isinstance(message, Delivery) else None
        if claim is None or claim.known is None:
            return run(*args, **kwargs)
        # Not skipped: what comes after it (a pipeline's next job) may not have come yet.
        return orjson.loads(claim.known)

    actor.fn = run_or_remember


def _keyed(broker: dramatiq.Broker, message: Delivery) -> tuple[Once, str] | None:
    """The option of the message's actor, and the digest of its key; None without a key."""
    actor = broker.actors.get(message.actor_name)
    once: Once | None = actor.options.get("idempotency") if actor is not None else None
    if once is None:
        return None
    try:
        key = once.key(*message.args, **message.kwargs)
    except Exception:
        return None  # arguments of another shape; the actor says what is wrong with them
    if key is None:
        return None
    # A digest, for a key may be somebody's address.
    digest = hashlib.sha256(f"{message.actor_name}\n{key}".encode("utf-8", "surrogatepass"))
    return once, digest.hexdigest()


def _claim(broker: Any, once: Once, key: str) -> Claim:
    """A claim in the store of the option, else in the broker's."""
    store = broker.idempotency_store() if once.store is None else once.store()
    keep = broker.options.idempotency_keep if once.keep is None else once.keep
    return Claim(store, key, uuid4().hex, keep, once.lock)


def _as_json(result: Any, about: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(result)
    except TypeError:
        logger.warning("a result is no JSON and is kept as null", extra=about)
        return b"null"
