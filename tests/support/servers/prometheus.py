"""Prometheus, which scrapes workers."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.support.servers.base import Server, find_program, write
from tests.support.servers.run import Run


class PrometheusServer(Server):
    """Prometheus on 127.0.0.1, which scrapes every second.

    Args:
        targets: addresses (`host:port`) of each job.
        rules: files of rules, which it evaluates every second.
    """

    kind: ClassVar[str] = "prometheus"
    package: ClassVar[str] = "prometheus"

    def __init__(
        self,
        targets: Mapping[str, list[str]] | None = None,
        rules: list[Path] | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(run)
        self._config = {  # JSON is YAML
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules or ()],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]}
                for job, addresses in (targets or {}).items()
            ],
        }

    @classmethod
    def program(cls) -> str | None:
        """Path of `prometheus`; the same package has `promtool`."""
        return find_program("prometheus")

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it with an empty folder."""
        config = write(self.data_dir / "prometheus.yaml", json.dumps(self._config))
        self._process = self._spawn(
            [
                self._require_program(),
                f"--config.file={config}",
                f"--storage.tsdb.path={self.data_dir / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API: `ask("query", query="up")`."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def _answers(self) -> bool:
        return b" 200 " in self._ask(b"GET /-/ready HTTP/1.0\r\n\r\n")
