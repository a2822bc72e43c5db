"""What http.py and embedded.py share: a ClickHouse by clickhouse-connect."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ...core.errors import ConfigError
from .client import Target, identifier, parse_version, token_settings
from .errors import check_block, hush_drivers, sink_error

T = TypeVar("T")


class ConnectClickHouse(ABC):
    """The calls of :class:`.client.ClickHouse`; how a client is opened is the subclass's."""

    def __init__(self, target: Target, *, extra: str) -> None:
        self._connect = import_connect(extra)
        self._target = target
        self._knows_token: bool | None = None
        hush_drivers()

    @abstractmethod
    def _client(self) -> Any:
        """A client of clickhouse-connect, opened if none is; raises what the driver raises."""

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """Called with what a call raised, before it is mapped."""

    @abstractmethod
    def create_database(self, cluster: str | None = None) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @property
    def database(self) -> str:
        return self._target.database

    @property
    def supports_dedup_token(self) -> bool:
        if self._knows_token is None:
            rows = self.query(
                "SELECT count() FROM system.settings WHERE name = 'insert_deduplication_token'"
            )
            self._knows_token = bool(rows[0][0])
        return self._knows_token

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        data: Sequence[Sequence[Any]],
        *,
        token: str | None = None,
    ) -> None:
        if not check_block(columns, data):
            return
        known = token is not None and self.supports_dedup_token
        settings = token_settings(token) if known else None
        self._run(
            lambda client: client.insert(
                identifier(table),
                data,
                column_names=list(columns),
                column_oriented=True,
                settings=settings,
            )
        )

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        rows = self._run(
            lambda client: (
                client.query(sql, parameters=dict(params) if params else None).result_rows
            )
        )
        return [tuple(row) for row in rows]

    def command(self, sql: str) -> None:
        self._run(lambda client: client.command(sql))

    def version(self) -> tuple[int, ...]:
        return parse_version(str(self.query("SELECT version()")[0][0]))

    def ping(self) -> None:
        self.query("SELECT 1")

    def _run(self, work: Callable[[Any], T]) -> T:
        try:
            client = self._client()
        except Exception as error:
            raise sink_error(error, user=self._target.user, connecting=True) from None
        try:
            return work(client)
        except Exception as error:
            self._failed(error)
            raise sink_error(error, user=self._target.user) from None


def import_connect(extra: str) -> Any:
    """clickhouse-connect, or an error that says which extra brings it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("clickhouse_connect")
    except ImportError:
        raise ConfigError(
            "expected the package clickhouse-connect for this CLICKHOUSE_URL, it is not "
            f"installed: pip install 'formrelay[{extra}]'"
        ) from None
