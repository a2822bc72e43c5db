"""Whether Redis lets us send, fetch and settle: tried on the server, and nothing is left there."""

from __future__ import annotations

from uuid import uuid4

from ..errors import BrokerRefused
from .commands import QueueCommands

#: Number of refusals that are named; the others are alike.
_NAMED = 3


def check_rights(commands: QueueCommands, queue: str) -> None:
    """Try what formrelay does with a queue.

    Raises:
        BrokerRefused: a command or a key is refused (ACL, a renamed command, a read-only replica,
            too little memory).
        BrokerUnavailable: no answer.
    """
    # An id of its own: what this process has in flight is not touched.
    trial = f"__trial__{uuid4()}"
    keys = commands.keys
    worker = (keys.in_flight(trial, queue), keys.worker_queues(trial), keys.worker_name(trial))
    try:
        refused = commands.run("probe", queue, [trial], *worker)
    except BrokerRefused as error:
        raise BrokerRefused(
            f"{error} (it is needed for the queue {queue!r}): docs/brokers.md has the rights of a "
            "Redis user"
        ) from None
    if refused:
        said = [f"{_text(one)} on {_text(key)} ({_reason(why)})" for one, key, why in refused]
        more = f" and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
        raise BrokerRefused(
            f"expected Redis at {commands.where} to allow what the queue {queue!r} needs, it "
            f"refuses {', '.join(said[:_NAMED])}{more}: docs/brokers.md has the rights of "
            "a Redis user"
        )
    wake = keys.wake(queue)
    with commands.talk() as client:
        taken = client.bzpopmin(wake, timeout=0.001)
        if taken is not None:  # meant for a worker
            client.zadd(wake, {taken[1]: taken[2]})


def _text(part: bytes) -> str:
    return part.decode(errors="replace")


def _reason(error: bytes) -> str:
    return _text(error).partition(" script:")[0][:120]
