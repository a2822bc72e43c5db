"""``formrelay send``: send one job."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

import orjson
import typer

from ...actors import declare_actors
from ...core.errors import ConfigError, InvalidJob
from ..output import say


def send(
    actor: Annotated[str, typer.Argument(help="Actor, for example save_submission.")],
    payload: Annotated[str, typer.Argument(help="Payload as JSON; '-' reads standard input.")],
    metadata: Annotated[str, typer.Option(help="Metadata as JSON.")] = "{}",
    delay: Annotated[float, typer.Option(min=0, help="Seconds before the job may run.")] = 0,
) -> None:
    """Send one job and print its id."""
    from ...actors.job import JobActor
    from ...brokers import get_broker

    declare_actors()
    actors = get_broker().actors
    if actor not in actors:
        raise ConfigError(f"expected an actor ({', '.join(sorted(actors))}), got {actor!r}")
    text = sys.stdin.read() if payload == "-" else payload
    found = actors[actor]
    assert isinstance(found, JobActor)
    message = found.send_with_options(
        kwargs={"payload": _json("payload", text), "metadata": _json("metadata", metadata)},
        delay=int(timedelta(seconds=delay) / timedelta(milliseconds=1)) if delay else None,
    )
    say(message.message_id)


def _json(name: str, text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidJob(f"expected the {name} as JSON, got invalid JSON: {error.msg}") from None
