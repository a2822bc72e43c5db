"""The Django project of examples/django_site behind a WSGI server."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from tests.support.command import run_python, start_python
from tests.support.servers.run import Run
from tests.support.servers.wsgi import WsgiServer

SITE = Path(__file__).resolve().parents[3] / "examples" / "django_site"
_PROGRAMS = Path(__file__).with_name("site_programs.py")


class DjangoSite(WsgiServer):
    """The example site, with the API token `site-token`.

    Args:
        variables: environment variables; without DATABASE_URL the site gets an SQLite database.
    """

    kind: ClassVar[str] = "django_site"
    token: ClassVar[str] = "site-token"

    def __init__(self, run: Run | None = None, **variables: str) -> None:
        super().__init__(run)
        self._env = {
            "API_TOKEN": self.token,
            "DATABASE_URL": f"sqlite:///{self.data_dir / 'site.sqlite3'}",
            "PYTHONPATH": str(SITE),
            "SECRET_KEY": "of-a-test",
            **variables,
        }

    def env(self, **more: str) -> dict[str, str]:
        """Environment of a process with the site's settings, plus `more`."""
        return {**self._run.env(), **self._env, **more}

    def manage(self, *arguments: str) -> str:
        """Run a command of manage.py; returns its output."""
        return self._python(SITE / "manage.py", *arguments)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of site_programs.py in a process of the site; returns its result."""
        return json.loads(self._python(_PROGRAMS, function, json.dumps(arguments)))

    def _python(self, program: Path, *arguments: str) -> str:
        done = run_python(str(program), *arguments, cwd=self.data_dir, env=self.env())
        assert done.returncode == 0, done.stderr
        return done.stdout

    def launch(self) -> None:
        """Migrate the database and start the server."""
        command = self.argv("formsite.wsgi:application")
        self._migrate()
        self._process = start_python(*command, cwd=self.data_dir, env=self.env(), log=self.log)

    def _migrate(self) -> None:
        """Migrate the database. An SQLite database is created once a run (2 s), then copied."""
        database, made = self.data_dir / "site.sqlite3", self._run.folder / "site.sqlite3"
        if not self._env["DATABASE_URL"].endswith(str(database)):
            self.manage("migrate", "-v0")
        elif not made.exists():
            self.manage("migrate", "-v0")
            shutil.copy(database, made)
        elif not database.exists():
            shutil.copy(made, database)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/submissions/", timeout=5):
                return False  # it accepted a request without a token
        except urllib.error.HTTPError as error:
            return error.code == 401
