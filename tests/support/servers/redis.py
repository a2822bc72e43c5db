"""A Redis with an append-only file, so that acknowledged writes survive `kill()`."""

from __future__ import annotations

from typing import ClassVar

from tests.support.servers.base import Server, find_program


class RedisServer(Server):
    """Redis: append-only file synced every second, no snapshots, no eviction."""

    kind: ClassVar[str] = "redis"
    package: ClassVar[str] = "redis-server"
    #: Additional settings of a subclass.
    settings: ClassVar[dict[str, str]] = {}

    @classmethod
    def program(cls) -> str | None:
        """Path of `redis-server`."""
        return find_program("redis-server")

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def launch(self) -> None:
        """Start it with its settings as arguments, without a configuration file."""
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
            # A title would overwrite the environment, in which the guard looks for tokens.
            "set-proc-title": "no",
            **self.settings,
        }
        argv = [self._require_program()]
        for name, value in settings.items():
            argv += [f"--{name}", value]
        self._process = self._spawn(argv)

    def _answers(self) -> bool:
        # While it loads its file it answers -LOADING.
        return self._ask(b"PING\r\n").startswith(b"+PONG")
