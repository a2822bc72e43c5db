"""Makes a new job from a dead letter whose arguments an operator has edited."""

from __future__ import annotations

import json
from typing import Any

from dramatiq import Message
from dramatiq.common import current_millis
from dramatiq.message import generate_unique_id

from ..actors.payload_secrets import ENCRYPTED, encrypts, put_back
from ..brokers import Entry, RelayBroker
from ..brokers.envelope import UNDECODABLE, without_options
from ..core.errors import FormrelayError, InvalidJob, NotNow
from ..middleware.delivery import ATTEMPT_HISTORY, BATCH, FAILURE, REDELIVERED, REQUEUED, RETRIES
from .masking import with_tokens


class NotEditable(FormrelayError):
    """The job cannot be edited."""


def why_not_editable(entry: Entry) -> str | None:
    """Say why the arguments of a dead letter cannot be edited; None if they can."""
    if entry.message.actor_name == UNDECODABLE:
        return "Bytes that cannot be decoded cannot be edited."
    if BATCH in entry.message.kwargs:
        return "The frozen batch of many jobs cannot be edited."
    return None


def edited(broker: RelayBroker, entry: Entry, text: str) -> Message[Any]:
    """Make the new job: it has an id of its own, all attempts, and the options of the dead letter.

    Args:
        text: JSON with ``args`` and ``kwargs``; hidden tokens are put back.

    Raises:
        NotEditable: the text is not such JSON.
        InvalidJob: the arguments do not fit the schema of the actor.
    """
    args, kwargs = _parsed(text)
    original = entry.message
    args = with_tokens(args, list(original.args))
    kwargs = with_tokens(kwargs, dict(original.kwargs))
    kwargs = _with_secrets(kwargs, original)
    names = (FAILURE, RETRIES, REQUEUED, REDELIVERED, ATTEMPT_HISTORY, "eta")
    options = without_options(original, *names).options
    actor = broker.actors.get(original.actor_name)
    if actor is not None:
        # Checks the arguments by the schema of the actor.
        made: Message[Any] = actor.message_with_options(args=tuple(args), kwargs=kwargs)
        args, kwargs = list(made.args), dict(made.kwargs)
    return Message(
        queue_name=entry.queue,
        actor_name=original.actor_name,
        args=tuple(args),
        kwargs=kwargs,
        options=options,
        message_id=generate_unique_id(),
        message_timestamp=current_millis(),
    )


def _with_secrets(kwargs: dict[str, Any], original: Message[Any]) -> dict[str, Any]:
    """Put the encrypted secrets back that the operator has not replaced.

    Raises:
        NotEditable: this process cannot decrypt them.
    """
    kwargs.pop(ENCRYPTED, None)
    if ENCRYPTED in original.kwargs and not encrypts():
        raise NotEditable("Its secrets are encrypted: set PAYLOAD_ENCRYPTION for this program.")
    try:
        found: dict[str, Any] = put_back(kwargs, original.kwargs, original.actor_name)
    except (NotNow, InvalidJob) as error:
        raise NotEditable(f"Its secrets cannot be decrypted here: {error}.") from None
    return found


def _parsed(text: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise NotEditable(f"Expected JSON, got another text{where}.") from None
    if not isinstance(value, dict) or value.keys() - {"args", "kwargs"}:
        raise NotEditable('Expected an object with "args" and "kwargs" and nothing else.')
    args, kwargs = value.get("args", []), value.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise NotEditable('Expected "args" to be a list and "kwargs" to be an object.')
    return args, kwargs
