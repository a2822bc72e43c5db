"""Numbers of e-mails that bounced in Redis, shared by all processes."""

from __future__ import annotations

from typing import Any

from ..bounce_rates import KEEP, MAX_RECENT, BounceRate, GroupRate
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

    def recent(self, limit: int) -> list[GroupRate]:
        with self._connected() as client:
            names = client.zrevrange(self._recent, 0, limit - 1) if limit > 0 else []
            groups = [name.decode(errors="replace") for name in names]
            pipeline = client.pipeline(transaction=False)
            for group in groups:
                name = self._prefix + digest(group)
                pipeline.get(name)
                pipeline.scard(f"{name}.bounced")
            answers = iter(pipeline.execute())
        rates = [BounceRate(int(sent or 0), next(answers)) for sent in answers]
        found = map(GroupRate, groups, rates)
        return [each for each in found if each.rate.bounced]  # the numbers of the others expired

    @property
    def _recent(self) -> str:
        """Sorted set: the names of groups with bounces, by the time of the newest bounce."""
        return self._prefix + "recent"

    def _run(self, group: str, sent: int, bounce: str) -> Any:
        name = self._prefix + digest(group)
        keys = [name, f"{name}.bounced", self._recent]
        return self._run_script(keys, duration_millis(KEEP), sent, bounce, group, MAX_RECENT)
