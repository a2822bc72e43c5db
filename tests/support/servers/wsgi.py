"""A Django project behind a WSGI server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from tests.support.servers.base import Server


class WsgiServer(Server):
    """Waitress with a project."""

    package: ClassVar[str] = "waitress (pip)"

    @classmethod
    def program(cls) -> str | None:
        """Path of `waitress-serve` in this virtual environment."""
        found = Path(sys.executable).with_name("waitress-serve")
        return str(found) if found.exists() else None

    @property
    def url(self) -> str:
        """URL of the site."""
        return f"http://127.0.0.1:{self.port}"

    def argv(self, application: str) -> list[str]:
        """Command line of the WSGI server for `module:application`."""
        program = self._require_program()
        return [program, f"--listen=127.0.0.1:{self.port}", "--threads=8", application]
