"""A ClickHouse with its own configuration, for Debian's 18.16 and newer versions."""

from __future__ import annotations

import urllib.request
from typing import ClassVar

from tests.support.servers.base import Server, find_program, free_port, write
from tests.support.servers.run import Run

_CONFIG = """<?xml version="1.0"?>
<yandex>
    <logger>
        <level>information</level>
        <log>{folder}/server.log</log>
        <errorlog>{folder}/error.log</errorlog>
    </logger>
    <listen_host>127.0.0.1</listen_host>
    <tcp_port>{port}</tcp_port>
    <http_port>{http_port}</http_port>
    <path>{folder}/data/</path>
    <tmp_path>{folder}/tmp/</tmp_path>
    <user_files_path>{folder}/user_files/</user_files_path>
    <format_schema_path>{folder}/format_schemas/</format_schema_path>
    <users_config>{folder}/users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <timezone>UTC</timezone>
    <mark_cache_size>268435456</mark_cache_size>
    <max_concurrent_queries>100</max_concurrent_queries>
{more}</yandex>
"""

_USER = """
        <{name}>
            <password>{password}</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </{name}>"""

_USERS = """<?xml version="1.0"?>
<yandex>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users>{users}
    </users>
</yandex>
"""


class ClickHouseServer(Server):
    """ClickHouse with the users `default` (no password) and `relay` (`relay-secret`)."""

    kind: ClassVar[str] = "clickhouse"
    package: ClassVar[str] = "clickhouse-server"
    user: ClassVar[str] = "relay"
    password: ClassVar[str] = "relay-secret"

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self.http_port = free_port()
        users = _USER.format(name="default", password="") + _USER.format(
            name=self.user, password=self.password
        )
        write(self.data_dir / "users.xml", _USERS.format(users=users))
        self._config = self.data_dir / "config.xml"
        self.configure("")

    def configure(self, more: str) -> None:
        """Replace the additional XML elements of the configuration, used at the next start."""
        ports = {"port": self.port, "http_port": self.http_port}
        write(self._config, _CONFIG.format(folder=self.data_dir, more=more, **ports))

    @classmethod
    def program(cls) -> str | None:
        """Path of `clickhouse-server`."""
        return find_program("clickhouse-server")

    @property
    def url(self) -> str:
        """URL of the native protocol: `clickhouse://127.0.0.1:port`."""
        return f"clickhouse://127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """URL of the HTTP interface."""
        return f"http://127.0.0.1:{self.http_port}"

    def exports(self) -> dict[str, str]:
        """The variables of every server, and FORMRELAY_TEST_CLICKHOUSE_HTTP_URL."""
        return {**super().exports(), "FORMRELAY_TEST_CLICKHOUSE_HTTP_URL": self.http_url}

    def launch(self) -> None:
        """Start it without the watchdog process of newer versions."""
        argv = [self._require_program(), f"--config-file={self._config}"]
        self._process = self._spawn(argv, {"CLICKHOUSE_WATCHDOG_ENABLE": "0"})

    def _answers(self) -> bool:
        with urllib.request.urlopen(f"{self.http_url}/ping", timeout=2) as answer:
            return bool(answer.read().startswith(b"Ok"))
