"""``formrelay config``: the current configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ...core.errors import NotConfigured
from ..host import get_host
from ..output import print_document, print_json, print_table, say_error
from ..worker.boot import NOT_FINE
from .options import JsonOption


def config(
    example: Annotated[bool, typer.Option("--example", help="Print .env.example instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Show every variable with its value and source; secrets are masked.

    Exits with 1 if the broker is missing, with 2 if a variable is invalid.

    Example: formrelay config --example > .env
    """
    from ...config.report import env_example, rows
    from ...config.settings import read_settings

    if example:
        print_document(env_example())
        return
    reading = read_settings(given=get_host().given())
    found = rows(reading)
    if json:
        print_json([asdict(row) for row in found])
    else:
        table = [(row.name, row.source, row.value) for row in found]
        print_table("Configuration", ["variable", "source", "value"], table, empty="")
    for line in reading.warnings:
        say_error(f"formrelay: warning: {line}")
    if isinstance(reading.error, NotConfigured):
        say_error(f"formrelay: {reading.error}")
        raise typer.Exit(NOT_FINE)
    if reading.error is not None:
        raise reading.error
