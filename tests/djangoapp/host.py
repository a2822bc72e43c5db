"""The host project, which runs in separate processes because Django's settings are global."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import requests

from tests.support.command import clean_environment, run_python, start_python
from tests.support.servers.run import Run, current_run
from tests.support.servers.wsgi import WsgiServer

PROJECT = Path(__file__).resolve().parent / "project"
#: Apps and settings modules that some tests add to the project.
APPS = PROJECT.with_name("apps")
ROOT = PROJECT.parents[2]


class Host:
    """The host project with its own database.

    Args:
        settings: values for its settings.py, including FORMRELAY.
        env: formrelay's variables in the environment.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self.variables = dict(env or {})
        #: The settings module; a test may set another module.
        self.module = "hostsite.settings"

    @property
    def env(self) -> dict[str, str]:
        """Environment of the project's processes."""
        return clean_environment(
            **self.variables,
            DJANGO_SETTINGS_MODULE=self.module,
            HOST_DATABASE=str(self.folder / "host.sqlite3"),
            HOST_SETTINGS=json.dumps(self.settings),
            PYTHONPATH=f"{PROJECT}:{APPS}:{ROOT}",
        )

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py to its end in an empty folder."""
        return self._run(str(PROJECT / "manage.py"), *arguments)

    def check(self, *arguments: str) -> tuple[int, str]:
        """Run `manage.py check`; returns its exit status and its messages about formrelay."""
        done = self.manage("check", *arguments)
        assert "Traceback" not in done.stderr, done.stderr
        # Without the messages of Django's own deployment checks.
        blocks = done.stderr.split("\n?: ")
        return done.returncode, "\n".join(block for block in blocks if "formrelay." in block)

    def migrated(self) -> Host:
        """Migrate the project: copies a database that is created once a test run."""
        made = current_run().folder / "host.sqlite3"
        database = self.folder / "host.sqlite3"
        if not made.exists():
            shutil.copy(self.migrate().folder / "host.sqlite3", made)
        elif not database.exists():
            shutil.copy(made, database)
        return self

    def migrate(self) -> Host:
        """Create the tables and the users `staff`, `other` and `boss`, a superuser.

        Their passwords are their names.
        """
        done = self.manage("migrate", "-v0")
        assert done.returncode == 0, done.stderr
        self.call("project.add_users")
        return self

    def call(self, name: str, *arguments: object) -> Any:
        """Call `module.function` of programs/ in a process of the project; returns its result."""
        words = [*name.split("."), json.dumps(arguments)]
        done = self._run("-m", "tests.djangoapp.programs", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def notes(self) -> list[tuple[str, bool]]:
        """Notes in the project's table: (text, whether a new database connection wrote it)."""
        with sqlite3.connect(self.folder / "host.sqlite3") as database:
            rows = database.execute("SELECT text, was_fresh FROM shop_note ORDER BY id").fetchall()
        database.close()
        return [(text, bool(fresh)) for text, fresh in rows]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python(*arguments, cwd=self.folder, env=self.env)


class HostSite(WsgiServer):
    """The host project behind a WSGI server."""

    kind: ClassVar[str] = "host_site"

    def __init__(self, host: Host, run: Run | None = None) -> None:
        super().__init__(run)
        self._host = host

    def launch(self) -> None:
        """Start the WSGI server."""
        command, env = self.argv("hostsite.wsgi:application"), self._host.env
        self._process = start_python(*command, cwd=self.data_dir, env=env, log=self.log)

    def _answers(self) -> bool:
        # Any answer will do, whatever the state of the broker.
        try:
            answer = requests.get(f"{self.url}/api/v1/workers/health", timeout=10)
        except requests.ConnectionError:
            return False
        return answer.status_code in (200, 503)

    def get(self, path: str, **options: Any) -> requests.Response:
        """Get a page without a login."""
        return requests.get(f"{self.url}/{path}", timeout=30, allow_redirects=False, **options)

    def session(self, user: str) -> requests.Session:
        """An HTTP session of a logged-in user."""
        key = self._host.call("project.log_in", user)
        session = requests.Session()
        session.cookies.set("sessionid", key)
        return session
