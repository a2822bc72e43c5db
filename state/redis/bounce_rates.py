"""Numbers of e-mails that bounced in Redis, shared by all processes."""

from __future__ import annotations

from typing import Any

from ..bounce_rates import KEEP, BounceRate
from ..digests import digest
from ..millis import duration_millis
from . import DEFAULT_NAMESPACE
from .script import Script

#: Stands between the namespace and the digest of a group.
PREFIX = ":__bounce_rates__."


class RedisBounceRates:
    """Numbers of all processes.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._prefix = namespace + PREFIX
        self._script = Script("bounce_rates.lua", client, where)

    def note_sent(self, group: str, number: int) -> None:
        self._run(group, number, "")

    def note_bounced(self, group: str, event: str) -> BounceRate:
        return BounceRate(*self._run(group, 0, digest(event)))

    def _run(self, group: str, sent: int, bounce: str) -> Any:
        name = self._prefix + digest(group)
        return self._script([name, f"{name}.bounced"], duration_millis(KEEP), sent, bounce)
