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
    """Send one job and print its id.

    An actor of your own gets the payload as its argument, and the metadata,
    if any, as the keyword metadata.
    """
    from ...actors.job import JobActor
    from ...brokers import get_broker

    declare_actors()
    actors = get_broker().actors
    if actor not in actors:
        raise ConfigError(f"expected an actor ({', '.join(sorted(actors))}), got {actor!r}")
    text = sys.stdin.read() if payload == "-" else payload
    found = actors[actor]
    job, about = _json("payload", text), _json("metadata", metadata)
    later = int(timedelta(seconds=delay) / timedelta(milliseconds=1)) if delay else None
    if isinstance(found, JobActor):
        kwargs = {"payload": job, "metadata": about}
        message = found.send_with_options(kwargs=kwargs, delay=later)
    else:
        # As enqueue() of the Django app does.
        kwargs = {"metadata": about} if about else {}
        message = found.send_with_options(args=(job,), kwargs=kwargs, delay=later)
    say(message.message_id)


def _json(name: str, text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidJob(f"expected the {name} as JSON, got invalid JSON: {error.msg}") from None
