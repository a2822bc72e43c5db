"""Numbers of e-mails that bounced in Redis, shared by all processes."""

from __future__ import annotations

from typing import Any

from ..bounce_rates import KEEP, BounceRate
from ..digests import digest
from ..millis import duration_millis
from .base import ScriptStore


class RedisBounceRates(ScriptStore):
    """Numbers of all processes."""

    script = "bounce_rates.lua"
    #: Stands between the namespace and the digest of a group.
    prefix = ":__bounce_rates__."

    def note_sent(self, group: str, number: int) -> None:
        self._run(group, number, "")

    def note_bounced(self, group: str, event: str) -> BounceRate:
        return BounceRate(*self._run(group, 0, digest(event)))

    def _run(self, group: str, sent: int, bounce: str) -> Any:
        name = self._prefix + digest(group)
        return self._run_script([name, f"{name}.bounced"], duration_millis(KEEP), sent, bounce)
