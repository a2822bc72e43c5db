"""``formrelay demo``. Imports the demo only when it runs, to keep ``--help`` fast."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import JsonOption


def demo(
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of answers to send. Default: all."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the temporary folder with queues, database and logs."),
    ] = False,
    json: JsonOption = False,
    api_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API. 0 picks a free port.")
    ] = 0,
    receiver_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the webhook receiver. 0 picks a free port."),
    ] = 0,
) -> None:
    """Send 944 real survey answers through real workers and check the results.

    Starts an embedded broker, an embedded ClickHouse, a small API, a webhook
    receiver, an SMTP server and a stand-in for Google Sheets in a temporary
    folder. Exits with 0 if every number matches, with 1 if not.

    Example: formrelay demo --limit 50
    """
    from ..demo.run import Options, run_demo

    options = Options(
        limit=limit,
        keep=keep,
        as_json=json,
        api_port=api_port,
        receiver_port=receiver_port,
    )
    raise typer.Exit(run_demo(options))
