"""``formrelay demo``. Imports next to nothing, so that ``formrelay --help`` stays quick."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Send only the first N answers.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with queues, database and logs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")
    ] = False,
    api_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 is any free one.")
    ] = 0,
    receiver_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the webhook receiver; 0 is any free one.")
    ] = 0,
) -> None:
    """Send 944 real survey answers through real workers, and check every number.

    Starts an embedded broker, an embedded ClickHouse, a small API and a webhook
    receiver, all in a temporary folder. Exit status: 0 when every number is as it
    should be, 1 when one is off.
    """
    from .run import Options, run_demo

    options = Options(
        limit=limit,
        keep=keep,
        as_json=as_json,
        api_port=api_port,
        receiver_port=receiver_port,
    )
    raise typer.Exit(run_demo(options))
