"""``formrelay version``: versions of formrelay, Python, packages and servers."""

from __future__ import annotations

from typing import Annotated

import typer

from ...brokers import get_broker
from ...core.errors import ConfigError, FormrelayError
from ..output import print_json, print_table, say_error
from ..versions import installed, servers
from .options import JsonOption


def version(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the servers.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the versions of formrelay, Python, packages and servers.

    A server that does not answer is left out with a note.

    Example: formrelay version --json
    """
    found = installed()
    if not offline:
        found |= _of_servers()
    if json:
        print_json(found)
    else:
        print_table("Versions", ["part", "version"], list(found.items()), empty="")


def _of_servers() -> dict[str, str]:
    try:
        found = servers(get_broker())
    except ConfigError:  # no broker is configured: nothing to ask
        return {}
    except FormrelayError as error:
        say_error(f"note: {error}")
        return {}
    return {name: f"{info.product} {info.version}" for name, info in found.items()}
