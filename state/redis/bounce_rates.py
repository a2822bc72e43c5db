"""Numbers of e-mails that bounced in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from importlib.resources import files
from typing import Any

from ..bounce_rates import KEEP, BounceRate
from ..digests import digest
from . import DEFAULT_NAMESPACE
from .client import repeated
from .connection import translated

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
        self._where = where
        self._prefix = namespace + PREFIX
        script = files(__package__).joinpath("bounce_rates.lua").read_text()
        self._script = client.register_script(script)

    def note_sent(self, group: str, number: int) -> None:
        self._run(group, number, "")

    def note_bounced(self, group: str, event: str) -> BounceRate:
        return BounceRate(*self._run(group, 0, digest(event)))

    def _run(self, group: str, sent: int, bounce: str) -> Any:
        name = self._prefix + digest(group)
        args = [KEEP // timedelta(milliseconds=1), sent, bounce]
        with translated(self._where):
            return repeated(lambda _: self._script(keys=[name, f"{name}.bounced"], args=args))
