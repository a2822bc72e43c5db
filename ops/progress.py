"""The progress of a job for commands: which of its parts are done, from the shared store."""

from __future__ import annotations

from typing import Any

from ..actors.job import JobActor
from ..brokers import Entry, RelayBroker, get_broker
from ..core.errors import BrokerError, InvalidJob, describe

_NO_STORE = "not known: each worker keeps it in its memory; set STATE_URL to a Redis URL"


def progress_by_id(id: str) -> dict[str, Any] | None:
    """Return the progress of an e-mail as JSON, by the id of its job alone.

    Returns:
        None if there is no such e-mail, or no shared store.

    Raises:
        BrokerError: the shared store failed.
    """
    from ..actors.emails.progress import progress_of_id

    found = None if get_broker().state is None else progress_of_id(id)
    return None if found is None else found.to_json()


def progress_json(entry: Entry, broker: RelayBroker | None = None) -> dict[str, Any] | None:
    """Return the progress of a job as JSON.

    Args:
        broker: the broker of the job; None for the broker of this process.

    Returns:
        None if the job has no parts, or no attempt has begun.
    """
    broker = broker or get_broker()
    actor = broker.actors.get(entry.message.actor_name)
    if not isinstance(actor, JobActor) or actor.progress is None:
        return None
    if broker.state is None:
        return {"text": _NO_STORE}
    try:
        found = actor.progress_of(entry.message)
    except InvalidJob:
        return None  # it was refused at its first attempt
    except BrokerError as error:
        return {"text": f"not known: the shared store failed: {describe(error)}"}
    return None if found is None else found.to_json()
