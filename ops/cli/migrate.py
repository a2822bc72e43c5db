"""``formrelay migrate``: tables in ClickHouse, and Redis keys of older versions."""

from __future__ import annotations

from typing import Annotated

import typer

from ...actors import declare_actors
from ..output import print_json, print_table, say
from .options import DryRunOption, JsonOption


def migrate(
    dry_run: DryRunOption = False,
    old_keys: Annotated[
        bool,
        typer.Option(
            "--old-keys",
            help="Instead, move the Redis keys of older versions (formrelay:…) under "
            "BROKER_NAMESPACE.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Create or upgrade the ClickHouse tables and their retention.

    With --old-keys, name the modules of your own actors with --import or
    FORMRELAY_IMPORTS, so that the keys of their queues are moved too.

    Example: formrelay migrate --dry-run
    """
    if old_keys:
        _move_old_keys(dry_run, json)
        return
    from ...actors.resources import clickhouse, clickhouse_schema
    from ...sinks.clickhouse import migrate as migrations

    client, schema = clickhouse(), clickhouse_schema()
    names = migrations.plan(client, schema) if dry_run else migrations.apply(client, schema)
    notes = migrations.notes(client, schema)
    if json:
        print_json({"dry_run": dry_run, "migrations": names, "notes": notes})
        return
    title = "To be applied" if dry_run else "Applied"
    print_table(title, ["migration"], [[name] for name in names], empty="up to date")
    for note in notes:
        say(f"note: {note}")


def _move_old_keys(dry_run: bool, json: bool) -> None:
    from ..old_keys import move_old_keys, refuse_default_namespace

    refuse_default_namespace()
    declare_actors()
    counts = move_old_keys(dry_run=dry_run)
    if json:
        print_json({"dry_run": dry_run, "moved": counts})
    else:
        title = "To be moved" if dry_run else "Moved"
        print_table(title, ["keys", "count"], list(counts.items()), empty="")
