"""A Redis with its append-only file on, so that what it acknowledged outlives `kill()`."""

from __future__ import annotations

from typing import ClassVar

from tests.support.servers.base import Server, find_program


class RedisServer(Server):
    """Redis: append-only file synced each second, no snapshots, never evicts."""

    kind: ClassVar[str] = "redis"
    package: ClassVar[str] = "redis-server"
    #: More of them, of a subclass.
    settings: ClassVar[dict[str, str]] = {}

    @classmethod
    def program(cls) -> str | None:
        """`redis-server`, wherever it is."""
        return find_program("redis-server")

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def launch(self) -> None:
        """Start it; the settings that matter stand here and not in a file."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.data_dir),
            "logfile": str(self.log),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            # The title is written over the environment, where the guard looks.
            "set-proc-title": "no",
            **self.settings,
        }
        argv = [self._require_program()]
        for name, value in settings.items():
            argv += [f"--{name}", value]
        self._process = self._spawn(argv)

    def _answers(self) -> bool:
        # While it loads its file it says -LOADING.
        return self._ask(b"PING\r\n").startswith(b"+PONG")
