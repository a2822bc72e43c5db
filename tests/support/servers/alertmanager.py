"""Prometheus' Alertmanager, which receives alerts."""

from __future__ import annotations

from typing import ClassVar

from tests.support.servers.base import Server, find_program, write

_CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


class AlertmanagerServer(Server):
    """Alertmanager on 127.0.0.1, without a cluster and without receivers of its own."""

    kind: ClassVar[str] = "alertmanager"
    package: ClassVar[str] = "prometheus-alertmanager"

    @classmethod
    def program(cls) -> str | None:
        """Path of `prometheus-alertmanager`."""
        return find_program("prometheus-alertmanager")

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it with an empty folder."""
        config = write(self.data_dir / "alertmanager.yml", _CONFIG)
        self._process = self._spawn(
            [
                self._require_program(),
                f"--config.file={config}",
                f"--storage.path={self.data_dir / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
            ]
        )

    def _answers(self) -> bool:
        return b" 200 " in self._ask(b"GET /-/ready HTTP/1.0\r\n\r\n")
