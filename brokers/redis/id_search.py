"""Finds messages in Redis by the beginning of their ids, in bounded steps."""

from __future__ import annotations

from collections.abc import Sequence

from ..filters import Extent
from .commands import QueueCommands
from .pages import to_bytes, to_text

#: Number of ids that Redis looks at in one step.
_STEP = 1_000


def ids_with_prefix(
    commands: QueueCommands,
    prefix: str,
    hashes: Sequence[tuple[str, str]],
    limit: int,
    extent: Extent,
) -> list[tuple[str, str]]:
    """Return queue and id of the messages whose id begins with ``prefix``.

    If one of these ids equals ``prefix``, only that id is returned.

    Args:
        hashes: queue and key of each hash of bodies to search.
        limit: maximum number of results.
        extent: how many ids to look at; it is updated.
    """
    raw = to_bytes(prefix)
    pattern = b"".join(b"\\" + raw[i : i + 1] for i in range(len(raw))) + b"*"
    found: dict[tuple[str, str], None] = {}  # a scan may return a key twice
    with commands.client_errors() as client:
        pipeline = client.pipeline(transaction=False)
        for _, bodies in hashes:
            pipeline.hexists(bodies, raw)
            pipeline.hlen(bodies)
        answers = pipeline.execute()
        for (queue, _), is_there in zip(hashes, answers[::2], strict=True):
            if is_there:
                return [(queue, prefix)]
        # The short ones first, so that a long queue does not use up the search.
        sizes = zip(answers[1::2], hashes, strict=True)
        for size, (queue, bodies) in sorted(sizes, key=lambda each: each[0]):
            cursor, left = 0, size
            while left:
                if extent.left <= 0:
                    extent.is_complete = False
                    return list(found)
                cursor, page = client.hscan(bodies, cursor, match=pattern, count=_STEP)
                extent.looked_at += min(left, _STEP)
                left = max(1, left - _STEP) if cursor else 0
                found |= {(queue, to_text(id)): None for id in page}
                if len(found) >= limit:
                    return list(found)[:limit]
    return list(found)
