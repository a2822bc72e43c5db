"""A PostgreSQL server for the project of examples/django_site."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import Server, ServerError, find_program
from tests.support.servers.run import Run

#: Debian has a folder for the programs of each version.
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
#: PostgreSQL refuses to run as root; Debian's package creates this user.
_USER = "postgres"


class PostgresServer(Server):
    """PostgreSQL on 127.0.0.1 with the user `site`; starts in two seconds."""

    kind: ClassVar[str] = "postgres"
    package: ClassVar[str] = "postgresql"

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self._as: dict[str, str] = {}
        if os.geteuid() == 0:
            self._as = {"user": _USER, "group": _USER}
            self._run.folder.chmod(0o711)  # the parent of its data folder
            os.chown(self.data_dir, *pwd.getpwnam(_USER)[2:4])

    @classmethod
    def program(cls) -> str | None:
        """Path of `postgres`; its other programs are in the same folder."""
        return find_program(*map(str, _PROGRAMS), "postgres")

    @property
    def url(self) -> str:
        """`postgres://site@127.0.0.1:port/postgres`."""
        return f"postgres://site@127.0.0.1:{self.port}/postgres"

    def launch(self) -> None:
        """Create the database cluster at the first start, and start the server."""
        program = self._require_program()
        folder = self.data_dir / "data"
        if not folder.exists():
            initdb = [str(Path(program).with_name("initdb")), "-D", str(folder)]
            done = subprocess.run(
                [*initdb, "--username=site", "--auth=trust", "--encoding=UTF8", "--no-sync"],
                env=self._run.env(),
                cwd=self.data_dir,
                capture_output=True,
                text=True,
                check=False,
                **self._as,
            )
            if done.returncode:
                raise ServerError(f"initdb: {done.stderr}")
        command = [program, "-D", str(folder), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self._process = self._spawn(command, **self._as)

    def _answers(self) -> bool:
        ready = Path(self.program() or "").with_name("pg_isready")
        command = [str(ready), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
