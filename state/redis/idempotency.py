"""The idempotency store in Redis, shared by all processes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..idempotency import Finished, Running
from ..millis import duration_millis
from . import DEFAULT_NAMESPACE
from .base import ScriptStore

#: The prefix in older versions, which did not use the namespace.
OLD_PREFIX = "formrelay:once:"


class RedisIdempotencyStore(ScriptStore):
    """Stores locks and results for all processes.

    In the default namespace, locks and results of older versions are found too.
    """

    script = "idempotency.lua"
    #: Stands between the namespace and the digest of a key.
    prefix = ":__once__."

    def begin(self, key: str, owner: str, lock: timedelta) -> Finished | Running | None:
        what, *rest = self._run("begin", key, owner, lock)
        match what:
            case b"finished":
                return Finished(rest[0])
            case b"running":
                return Running(timedelta(milliseconds=max(0, rest[0])))
        return None

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        return bool(self._run("renew", key, owner, lock))

    def finish(self, key: str, owner: str, result: bytes, keep: timedelta) -> bool:
        return bool(self._run("finish", key, owner, keep, result))

    def release(self, key: str, owner: str) -> None:
        self._run("release", key, owner, timedelta(0))

    def _run(self, what: str, key: str, owner: str, lasts: timedelta, result: bytes = b"") -> Any:
        old = OLD_PREFIX + key if self._redis.namespace == DEFAULT_NAMESPACE else ""
        keys = [self._prefix + key]
        return self._run_script(keys, what, owner, duration_millis(lasts), result, old)
