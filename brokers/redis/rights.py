"""Checks the rights of the Redis user by running the commands; leaves no data behind."""

from __future__ import annotations

from uuid import uuid4

from ..errors import BrokerRefused
from .commands import QueueCommands

#: Number of refused commands that the error names.
_NAMED = 3


def check_rights(commands: QueueCommands, queue: str) -> None:
    """Run every command that formrelay needs on the keys of a queue.

    Raises:
        BrokerRefused: a command or a key is refused (ACL, a renamed command, a read-only replica,
            too little memory).
        BrokerUnavailable: Redis does not answer.
    """
    # No worker has this id, so no message in flight is touched.
    probe = f"__probe__{uuid4()}"
    keys = commands.keys
    worker = (keys.in_flight(probe, queue), keys.worker_queues(probe), keys.worker_name(probe))
    try:
        refused = commands.run("probe", queue, [probe], *worker)
    except BrokerRefused as error:
        raise BrokerRefused(
            f"{error} (it is needed for the queue {queue!r}): docs/brokers.md has the rights of a "
            "Redis user"
        ) from None
    if refused:
        named = [
            f"{_text(command)} on {_text(key)} ({_text(error).partition(' script:')[0][:120]})"
            for command, key, error in refused[:_NAMED]
        ]
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        raise BrokerRefused(
            f"expected Redis at {commands.where} to allow what the queue {queue!r} needs, it "
            f"refuses {', '.join(named)}{more}: docs/brokers.md has the rights of a Redis user"
        )
    wake = keys.wake(queue)
    with commands.client_errors() as client:
        taken = client.bzpopmin(wake, timeout=0.001)
        if taken is not None:  # the marker was meant to wake a worker
            client.zadd(wake, {taken[1]: taken[2]})


def _text(part: bytes) -> str:
    return part.decode(errors="replace")
