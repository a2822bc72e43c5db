"""Tables on every host of a cluster: what has to be there, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...core.errors import ConfigError, SinkError, SinkTransient, SinkUnavailable
from .client import ClickHouse, identifier
from .failover import FailoverClickHouse
from .schema import Schema

_MACROS = {"shard", "replica"}
_NO_CLUSTER = 170
_TOO_LONG = 159


def clause(schema: Schema) -> str:
    """What follows a table's name in every statement that makes or changes it."""
    return f" ON CLUSTER {identifier(schema.cluster)}" if schema.cluster else ""


def check(client: ClickHouse, schema: Schema) -> None:
    """Check that the server can have replicated tables, and has no others of ours.

    Raises:
        ConfigError: it lacks a macro, or a table is there that is no replica.
    """
    if not schema.cluster:
        return
    lacking = _MACROS - {name for (name,) in client.query("SELECT macro FROM system.macros")}
    if lacking:
        raise ConfigError(
            f"expected ClickHouse to have the macros shard and replica for CLICKHOUSE_CLUSTER, got "
            f"none of the name {' and '.join(sorted(lacking))}: add <macros> to its configuration"
        )
    for table, engine in _engines(client, schema):
        if not engine.startswith(("Replicated", "Shared")):
            raise ConfigError(
                f"expected {table} to be replicated, because CLICKHOUSE_CLUSTER is set, got "
                f"{engine}: it was made without. Unset CLICKHOUSE_CLUSTER, or take another "
                "CLICKHOUSE_DATABASE and copy the rows (docs/clickhouse.md)"
            )


def notes(client: ClickHouse, schema: Schema) -> Iterator[str]:
    """What is not safe about the hosts, and what to do."""
    if schema.cluster:
        return
    if isinstance(client, FailoverClickHouse):
        yield (
            "CLICKHOUSE_URL names several hosts and CLICKHOUSE_CLUSTER no cluster: the tables are "
            "made on one host alone, unless they are one host or the database replicates itself"
        )
    for table, engine in _engines(client, schema):
        if engine.startswith("Replicated"):
            yield (
                f"{table} is replicated ({engine}) and CLICKHOUSE_CLUSTER is not set: new tables "
                "are made on one host alone; set it to the name of the cluster"
            )
            return


@contextmanager
def waiting(schema: Schema) -> Iterator[None]:
    """Says what a failed statement means where a cluster's hosts carry it out.

    Raises:
        ConfigError: the server knows no such cluster.
        SinkTransient: a host did not carry a statement out in time.
    """
    try:
        yield
    except SinkError as error:
        if schema.cluster and error.code == _NO_CLUSTER:
            raise ConfigError(
                f"expected CLICKHOUSE_CLUSTER to be a cluster that the server knows, got "
                f"'{schema.cluster}': its table system.clusters lists them"
            ) from None
        # Without a code it is the connection's time-out, which is the shorter one as they come.
        broke_off = error.code in (None, _TOO_LONG) and not isinstance(error, SinkUnavailable)
        if schema.cluster and broke_off:
            raise SinkTransient(
                f"expected every host of the cluster '{schema.cluster}' to carry out a change in "
                f"time, got: {error}. A host that is away does it when it is back: run formrelay "
                "migrate again then",
                code=error.code,
            ) from None
        raise


def _engines(client: ClickHouse, schema: Schema) -> list[tuple[str, str]]:
    rows = client.query(
        "SELECT name, engine FROM system.tables WHERE database = %(database)s ORDER BY name",
        {"database": client.database},
    )
    ours = {*schema.tables, "formrelay_migrations"}
    return [(name, engine) for name, engine in rows if name in ours]
