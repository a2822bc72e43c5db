"""Runs jobs with the same idempotency key once.

Before the actor runs, the key is locked; afterwards, the result is stored under it. A second job
with the key is deferred while the first job runs, and then gets the first job's result without
running. The lock is renewed while the actor runs, and expires if the worker dies.

This makes a second run unlikely, not impossible: a worker that is stopped for longer than the
lock lasts loses the lock. An effect that must never happen twice also needs the receiver to
recognise repeats.
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
from ..core.errors import BrokerError, ConfigError, DeferReason, describe
from ..core.outcomes import Dead, Defer
from ..state.idempotency import Claim, Finished, Once, Running
from .delivery import Delivery
from .lock_renewal import LockRenewal
from .outcomes import decide

logger = logging.getLogger("formrelay.workers")

#: Maximum time for which a job is deferred while another job with its key is running.
_DEFER = timedelta(seconds=1)
#: Minimum number of seconds between two log lines about an unavailable store.
_LOG_INTERVAL = 30.0


class Idempotency(Middleware):
    """Locks the idempotency key of a message, and stores the result of its job."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._renewal = LockRenewal(clock=clock)
        self._logged_at = -_LOG_INTERVAL

    @property
    def actor_options(self) -> set[str]:
        """``idempotency``: a :class:`Once`."""
        return {"idempotency"}

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery):
            return
        try:
            keyed = once_and_key(broker, message)
        except Exception as error:
            message.key_error = error
            return
        if keyed is None:
            return
        once, key = keyed
        try:
            claim = _claim(broker, once, key)
            found = claim.store.begin(key, claim.owner, claim.lock)
        except (BrokerError, ConfigError, OSError) as error:  # without a lock no job may run
            why = describe(error)
            self._alert(why)
            message.outcome = Defer(_DEFER, why, DeferReason.STORE_UNAVAILABLE)
            raise SkipMessage(why) from error
        except Exception as error:
            # Not an outage: count a failed attempt, so that the job is dead-lettered in the end.
            message.outcome = decide(broker, message, error, self._clock.time())
            if isinstance(message.outcome, Dead):
                message.fail()
            raise SkipMessage(describe(error)) from error
        if isinstance(found, Running):
            why = "a job with the same idempotency key is running"
            after = min(found.ends_in, _DEFER)
            message.outcome = Defer(after, why, DeferReason.RUNNING_ELSEWHERE)
            raise SkipMessage(why)
        if isinstance(found, Finished):
            claim.result = found.result
        else:
            self._renewal.add(claim)
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
        if claim.result is not None:
            message.fields = {**(message.fields or {}), "is_repeat": True}
            return
        self._renewal.remove(claim)
        about = {"actor": message.actor_name, "message_id": message.message_id}
        try:
            if exception is not None:
                claim.store.release(claim.key, claim.owner)
            elif not claim.store.finish(
                claim.key, claim.owner, _as_json(result, about), claim.keep
            ):
                logger.warning("idempotency lock expired while its job was running", extra=about)
        except Exception as error:
            # The outcome of the job is decided already, and the lock will expire.
            about["error_message"] = describe(error)
            logger.warning("could not store the result under its idempotency key", extra=about)

    def _alert(self, why: str) -> None:
        """Log that jobs wait for the store, at most once per interval."""
        now = self._clock.monotonic()
        if now >= self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            logger.error(
                "deferring jobs: the idempotency store is unavailable",
                extra={"error_message": why},
            )

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._renewal.stop()

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Release the lock of a message that a later middleware deferred."""
        if isinstance(message, Delivery) and message.claim is not None:
            self.after_process_message(broker, message, exception=SkipMessage())


def remember(actor: dramatiq.Actor[Any, Any]) -> None:
    """Make an actor with the option ``idempotency`` return a stored result instead of running.

    Raises:
        ConfigError: it is no :func:`once`, or the actor also has ``batch_size`` or
            ``in_flight``.
    """
    option = actor.options.get("idempotency")
    if option is None:
        return
    if not isinstance(option, Once):
        raise ConfigError(
            f"{actor.actor_name}: expected idempotency to be once(key), got {option!r}"
        )
    for other in ("batch_size", "in_flight"):
        if actor.options.get(other) is not None:
            raise ConfigError(
                f"expected {actor.actor_name} to run one job at a time for idempotency=…, got "
                f"{other} as well: remove one of the two options"
            )
    run = actor.fn

    @wraps(run)
    def run_or_remember(*args: Any, **kwargs: Any) -> Any:
        message = CurrentMessage.get_current_message()
        if not isinstance(message, Delivery):
            return run(*args, **kwargs)
        if message.key_error is not None:
            raise message.key_error
        if message.claim is None or message.claim.result is None:
            return run(*args, **kwargs)
        # Not skipped: the next job of its pipeline may not have been sent yet.
        return orjson.loads(message.claim.result)

    actor.fn = run_or_remember


def once_and_key(
    broker: dramatiq.Broker, message: dramatiq.Message[Any] | Delivery
) -> tuple[Once, str] | None:
    """The actor's option and the digest of the message's key; None for a message without a key."""
    actor = broker.actors.get(message.actor_name)
    once: Once | None = actor.options.get("idempotency") if actor is not None else None
    if once is None:
        return None
    key = once.key(*message.args, **message.kwargs)
    if key is None:
        return None
    # A digest, because a key may be personal data.
    digest = hashlib.sha256(f"{message.actor_name}\n{key}".encode("utf-8", "surrogatepass"))
    return once, digest.hexdigest()


def _claim(broker: Any, once: Once, key: str) -> Claim:
    """Make a claim in the option's store, otherwise in the broker's store."""
    store = broker.idempotency_store() if once.store is None else once.store()
    keep = broker.options.idempotency_keep if once.keep is None else once.keep
    return Claim(store, key, uuid4().hex, keep, once.lock)


def _as_json(result: Any, about: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(result)
    except TypeError:
        logger.warning("result is not JSON and is stored as null", extra=about)
        return b"null"
