#!/usr/bin/env python3
"""Redis, RabbitMQ and ClickHouse servers for the tests, gone when they are over.

    scripts/servers.py run -- .venv/bin/pytest tests/brokers
    scripts/servers.py up                    # prints exports, stays until Ctrl-C
    scripts/servers.py up --only redis

Each gets free ports on 127.0.0.1 and a temporary folder; servers that run on this
machine already are not looked at. One whose FORMRELAY_TEST_..._URL is set is not
started. Exit status: that of the command; 1 when a server did not start; 2 for
wrong use.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.servers import (
    KINDS,
    Interrupted,
    RabbitServer,
    Run,
    Server,
    ServerError,
    in_ci,
    raise_on_signals,
)
from tests.support.servers.guard import sweep


def main() -> int:
    """Parse the command line and carry it out."""
    arguments = _parser().parse_args()
    raise_on_signals()
    run = Run()
    try:
        exports = start(run, arguments.only or KINDS)
        if arguments.what == "up":
            return stay(exports)
        status = run.command(arguments.command, env=exports)
        report_leftovers(run)
        return status
    except ServerError as error:
        say(str(error))
        return 1
    except FileNotFoundError as error:
        say(f"cannot run {error.filename}: no such program")
        return 2
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    finally:
        run.close()


def start(run: Run, kinds: Iterable[str]) -> dict[str, str]:
    """Start the servers side by side; returns the variables that tests read."""
    servers: list[Server] = []
    for kind in kinds:
        given = os.environ.get(f"FORMRELAY_TEST_{kind.upper()}_URL")
        server_class = KINDS[kind]
        if given:
            say(f"{kind}: using the one given in the environment")
        elif server_class.program():
            servers.append(
                RabbitServer(run, management=True)
                if server_class is RabbitServer
                else server_class(run)
            )
        elif in_ci():
            raise ServerError(f"{kind} is not installed: apt-get install {server_class.package}")
        else:
            say(
                f"{kind} is not installed, so its tests will be skipped"
                f" (apt-get install {server_class.package})"
            )
    for server in servers:
        server.launch()
    exports: dict[str, str] = {}
    for server in servers:
        exports |= server.wait_ready().exports()
    if servers:
        say("up: " + ", ".join(f"{server.kind} on port {server.port}" for server in servers))
    return exports


def stay(exports: dict[str, str]) -> int:
    """Print the variables for a shell, then wait for Ctrl-C."""
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)
    say("Ctrl-C ends them")
    while True:
        signal.pause()


def report_leftovers(run: Run) -> None:
    """End what the command started and left running, and name it: a test leaks."""
    for leftover in sweep(run.labelled("command"), patience=3):
        say(f"left running by the command, now ended: {leftover}")


def say(message: str) -> None:
    """A line on standard error, so that the exports on standard output stay clean."""
    print(f"servers: {message}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="what", required=True)
    run = actions.add_parser("run", help="run a command with the servers up")
    up = actions.add_parser("up", help="start them, print exports, stay until Ctrl-C")
    for action in (run, up):
        action.add_argument(
            "--only", action="append", choices=list(KINDS), help="this one; may be repeated"
        )
    run.add_argument("command", nargs="+", help="the command, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
