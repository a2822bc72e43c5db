"""The board of long tasks in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..millis import duration_millis, from_millis
from ..task_board import KEEP, MAX_TASKS, TaskRecord
from . import DEFAULT_NAMESPACE
from .connection import translated
from .script import Script

#: Stands between the namespace and the id of a task.
PREFIX = ":__tasks__"
_NAMES = ("action", "filter", "who", "state", "done", "total", "text")


class RedisTaskBoard:
    """The tasks of all processes, by the server's clock.

    Args:
        client: a :class:`.client.RedisClient`; its maker closes it.
        where: the server's address, for error messages.
        namespace: prefix of the keys.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._client = client
        self._where = where
        self._index = namespace + PREFIX
        self._script = Script("task_board.lua", client, where)

    def write(self, record: TaskRecord) -> str | None:
        task = orjson.dumps({name: getattr(record, name) for name in _NAMES})
        found = self._run(
            record.id, "write", task, int(record.is_over), duration_millis(KEEP), MAX_TASKS
        )
        return None if found is None else found.decode()

    def find(self, id: str) -> TaskRecord | None:
        with translated(self._where):
            return _parse(id, self._client.hgetall(self._key(id)))

    def newest(self) -> Sequence[TaskRecord]:
        with translated(self._where):
            ids = [id.decode() for id in self._client.zrevrange(self._index, 0, MAX_TASKS - 1)]
            pipeline = self._client.pipeline(transaction=False)
            for id in ids:
                pipeline.hgetall(self._key(id))
            found = map(_parse, ids, pipeline.execute())
        return [record for record in found if record is not None]

    def stop(self, id: str, who: str) -> bool:
        return bool(self._run(id, "stop", who))

    def _run(self, id: str, what: str, *args: Any) -> Any:
        return self._script([self._index, self._key(id)], what, id, *args)

    def _key(self, id: str) -> str:
        return f"{self._index}.{id}"


def _parse(id: str, found: Mapping[bytes, bytes]) -> TaskRecord | None:
    if not found:
        return None
    fields = orjson.loads(found[b"task"])
    by = found.get(b"by")
    return TaskRecord(
        id,
        **{name: fields[name] for name in _NAMES},
        began_at=from_millis(int(found[b"began"])),
        updated_at=from_millis(int(found[b"updated"])),
        stopped_by=None if by is None else by.decode(),
    )
