"""``formrelay health``: whether broker, store, workers and queues work now."""

from __future__ import annotations

from typing import Annotated

import typer

from ...actors import declare_actors
from ...brokers import RelayBroker, get_broker
from ..health.check import check_health
from ..output import print_json, print_table
from ..worker.boot import NOT_FINE
from .options import JsonOption


def health(
    sinks: Annotated[
        bool, typer.Option("--sinks", help="Also connect to ClickHouse, API, SMTP and Google.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option("--here", help="Check only the workers of this machine, as in a container."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds for all checks together.")
    ] = 5,
    json: JsonOption = False,
) -> None:
    """Check broker, shared store, workers and queues. Exits with 1 if one fails.

    A queue fails if it has jobs and no live worker, unless it is paused.
    `doctor` checks more, and takes longer.

    Example: formrelay health --here --timeout 3
    """
    found = check_health(_open_broker, sinks=sinks, only_here=here, timeout=timeout)
    if json:
        parts = [{"part": each.name, "ok": each.is_ok, "says": each.says} for each in found.parts]
        status = "ok" if found.is_ok else "failed"
        about = {"workers": found.workers, "problems": found.problems}
        print_json({"status": status, "parts": parts, **about})
    else:
        rows = [(each.name, "ok" if each.is_ok else "failed", each.says) for each in found.parts]
        print_table("Health", ["part", "state", "details"], rows, empty="")
    if not found.is_ok:
        raise typer.Exit(NOT_FINE)


def _open_broker() -> RelayBroker:
    declare_actors()
    return get_broker()
