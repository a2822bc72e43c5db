"""What the mail servers have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import ClassVar

from tests.support.servers.base import Server, ServerError


class RootServer(Server):
    """A server that only root can start; it keeps a configuration of its own.

    Attributes:
        config: the file that is there once the server is configured.
    """

    config: ClassVar[str]

    def launch(self) -> None:
        """Write the configuration at the first start, and start the server."""
        program = self._require_program()
        if os.geteuid():
            raise ServerError(f"{self.kind} has to be started by root")
        if not (self.data_dir / self.config).exists():
            self._configure()
        self._start(program)

    @abstractmethod
    def _configure(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def _start(self, program: str) -> None:
        """Start the program."""


class SmtpServer(RootServer):
    """Takes e-mail for `there.example`, and keeps it in maildirs."""

    @property
    def url(self) -> str:
        """`smtp://127.0.0.1:port`."""
        return f"smtp://127.0.0.1:{self.port}"

    def messages(self, name: str) -> list[bytes]:
        """The e-mails delivered to `NAME@there.example`."""
        folder = self.data_dir / "mail" / name / "new"
        return [path.read_bytes() for path in sorted(folder.glob("*"))]
