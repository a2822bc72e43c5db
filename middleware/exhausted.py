"""Sends a message to the actor ``on_retry_exhausted`` when a job is not retried any more."""

from __future__ import annotations

import logging
from typing import Any

import dramatiq
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import Middleware

from ..core.outcomes import Dead
from .delivery import Delivery
from .policies import policy_of

logger = logging.getLogger("formrelay.workers")

#: Options that name an actor to which a message is sent when a job has ended.
CALLBACKS = ("on_success", "on_failure", "on_retry_exhausted")


class RetryExhausted(Middleware):
    """The callback of stock Dramatiq's Retries.

    The target gets the message as a dict, and a dict with ``retries``, the number of retries that
    were made, and ``max_retries``. Nothing is sent for an error in the actor's ``throws``.
    """

    @property
    def actor_options(self) -> set[str]:
        """``on_retry_exhausted``: the name of an actor."""
        return {"on_retry_exhausted"}

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Log each callback of an actor that this worker could not send.

        Not checked when the actor is declared, since the callback may be declared later; and not
        when a message is sent, since a program that sends needs only a part of the actors.
        """
        for actor in list(broker.actors.values()):
            for option in CALLBACKS:
                target = actor.options.get(option)
                if target and not is_declared(broker, target):
                    logger.error(
                        "a callback names an actor that this worker does not have",
                        extra={"actor": actor.actor_name, "option": option, "target": target},
                    )

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        if not isinstance(message, Delivery) or not isinstance(message.outcome, Dead):
            return
        actor = broker.get_actor(message.actor_name)
        target = message.options.get("on_retry_exhausted")
        target = target or actor.options.get("on_retry_exhausted")
        if not target or isinstance(exception, actor.options["policy"].throws):
            return
        max_retries: int | None = message.options.get("max_retries")
        if "max_retries" not in message.options:
            max_attempts = policy_of(broker, message.actor_name).max_attempts
            max_retries = max_attempts - 1 if max_attempts < 2**31 else None
        about = {"retries": message.attempt - 1, "max_retries": max_retries}
        broker.get_actor(target).send(message.message.asdict(), about)


def is_declared(broker: dramatiq.Broker, name: str) -> bool:
    try:
        broker.get_actor(name)
    except ActorNotFound:
        return False
    return True
