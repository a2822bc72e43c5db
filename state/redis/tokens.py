"""Connections to OAuth providers in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import orjson

from ..digests import digest
from ..token_store import Facts, Pause, StoredConnection
from .base import ScriptStore

_CHUNK = 500
#: A newer version may store more.
_FACTS = frozenset(field.name for field in fields(Facts))


class RedisTokenStore(ScriptStore):
    """Connections of all processes. Secrets come in encrypted."""

    script = "tokens.lua"
    #: Stands after the namespace; behind it ``.`` and the digest of a connection's id.
    prefix = ":__tokens__"

    def load(self, connection: str) -> StoredConnection | None:
        with self._connected() as client:
            found = client.hgetall(self._key(digest(connection)))
        return _parse(found) if found else None

    def create(self, stored: StoredConnection) -> bool:
        return self._write("create", stored)

    def put(self, stored: StoredConnection) -> None:
        self._write("put", stored)

    def begin(self, connection: str, generation: int, at: float) -> None:
        self._run("begin", connection, generation, at)

    def replace(self, stored: StoredConnection) -> bool:
        return self._write("replace", stored)

    def pause(self, connection: str, pause: Pause, generation: int | None = None) -> bool:
        number = "" if generation is None else generation
        text = pause.by[0].encode() + orjson.dumps(asdict(pause))
        return self._run("pause", connection, text, number)

    def resume(self, connection: str) -> bool:
        return self._run("resume", connection)

    def reseal(self, connection: str, old: bytes, new: bytes) -> bool:
        return self._run("reseal", connection, old, new)

    def remove(self, connection: str) -> bool:
        return self._run("remove", connection)

    def all(self) -> list[StoredConnection]:
        with self._connected() as client:
            names = sorted(name.decode() for name in client.smembers(self._prefix))
        found: list[StoredConnection] = []
        for start in range(0, len(names), _CHUNK):
            found += self._read(names[start : start + _CHUNK])
        return found

    def _read(self, names: Sequence[str]) -> list[StoredConnection]:
        with self._connected() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(self._key(name))
            hashes = pipeline.execute()
        for name, one in zip(names, hashes, strict=True):
            if not one:  # expired
                self._call("forget", name)
        return [_parse(one) for one in hashes if one]

    def _write(self, what: str, stored: StoredConnection) -> bool:
        lasts = int(stored.facts.keep * 1000)
        facts = orjson.dumps(asdict(stored.facts))
        args = (stored.connection.encode(), stored.sealed, facts, lasts, stored.generation)
        return self._run(what, stored.connection, *args)

    def _run(self, what: str, connection: str, *args: Any) -> bool:
        return self._call(what, digest(connection), *args)

    def _call(self, what: str, name: str, *args: Any) -> bool:
        return bool(self._run_script([self._key(name), self._prefix], what, name, *args))

    def _key(self, name: str) -> str:
        return f"{self._prefix}.{name}"


def _parse(found: Mapping[bytes, bytes]) -> StoredConnection:
    pause, facts = found.get(b"pause"), orjson.loads(found[b"facts"])
    return StoredConnection(
        found[b"id"].decode(),
        found[b"sealed"],
        Facts(**{name: one for name, one in facts.items() if name in _FACTS}),
        int(found[b"generation"]),
        None if pause is None else Pause(**orjson.loads(pause[1:])),
        float(found.get(b"refreshing", 0)),
    )
