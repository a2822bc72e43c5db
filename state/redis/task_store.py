"""The long tasks of operators in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..millis import duration_millis, from_millis
from ..task_store import KEEP, MAX_TASKS, TaskRecord
from .base import ScriptStore

_NAMES = ("action", "filter", "who", "state", "done", "total", "text")


class RedisTaskStore(ScriptStore):
    """The tasks of all processes, by the server's clock."""

    script = "task_store.lua"
    #: Stands between the namespace and the id of a task.
    prefix = ":__tasks__"

    def write(self, record: TaskRecord) -> str | None:
        task = orjson.dumps({name: getattr(record, name) for name in _NAMES})
        found = self._run(
            record.id, "write", task, int(record.is_over), duration_millis(KEEP), MAX_TASKS
        )
        return None if found is None else found.decode()

    def find(self, id: str) -> TaskRecord | None:
        with self._connected() as client:
            return _parse(id, client.hgetall(self._key(id)))

    def newest(self) -> Sequence[TaskRecord]:
        with self._connected() as client:
            ids = [id.decode() for id in client.zrevrange(self._prefix, 0, MAX_TASKS - 1)]
            pipeline = client.pipeline(transaction=False)
            for id in ids:
                pipeline.hgetall(self._key(id))
            found = map(_parse, ids, pipeline.execute())
        return [record for record in found if record is not None]

    def request_stop(self, id: str, who: str) -> bool:
        return bool(self._run(id, "stop", who))

    def _run(self, id: str, what: str, *args: Any) -> Any:
        return self._run_script([self._prefix, self._key(id)], what, id, *args)

    def _key(self, id: str) -> str:
        return f"{self._prefix}.{id}"


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
