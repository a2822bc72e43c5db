#!/usr/bin/env python3
"""Start Redis, RabbitMQ and ClickHouse servers for tests, and stop them afterwards.

    scripts/servers.py run -- .venv/bin/pytest tests/brokers
    scripts/servers.py up                    # print exports, run until Ctrl-C
    scripts/servers.py up --only redis

Each server gets free ports on 127.0.0.1 and a temporary folder. A server whose
FORMRELAY_TEST_..._URL is set is not started. Exit status: that of the command; 1 if a server does
not start; 2 for wrong usage.
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
    """Parse the command line and run the command."""
    arguments = _parser().parse_args()
    raise_on_signals()
    run = Run()
    try:
        exports = start(run, arguments.only or KINDS)
        if arguments.action == "up":
            return stay(exports)
        status = run.command(arguments.command, env=exports)
        report_leftovers(run)
        return status
    except ServerError as error:
        say(str(error))
        return 1
    except FileNotFoundError as error:
        say(f"cannot run {error.filename}: program not found")
        return 2
    except Interrupted as interrupted:
        return 128 + interrupted.signum
    finally:
        run.close()


def start(run: Run, kinds: Iterable[str]) -> dict[str, str]:
    """Start the servers in parallel; returns the environment variables for the tests."""
    servers: list[Server] = []
    for kind in kinds:
        given = os.environ.get(f"FORMRELAY_TEST_{kind.upper()}_URL")
        server_class = KINDS[kind]
        if given:
            say(f"{kind}: using FORMRELAY_TEST_{kind.upper()}_URL")
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
                f"{kind} is not installed, so its tests are skipped"
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
    """Print the variables as shell exports, then wait for Ctrl-C."""
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)
    say("press Ctrl-C to stop them")
    while True:
        signal.pause()


def report_leftovers(run: Run) -> None:
    """Stop the processes that the command left running, and log them, since a test leaks."""
    for leftover in sweep(run.labelled("command"), patience=3):
        say(f"stopped a process that the command left running: {leftover}")


def say(message: str) -> None:
    """Print to standard error; standard output has only the exports."""
    print(f"servers: {message}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="run a command while the servers run")
    up = actions.add_parser("up", help="start the servers, print exports, run until Ctrl-C")
    for action in (run, up):
        action.add_argument(
            "--only",
            action="append",
            choices=list(KINDS),
            help="start only this server (repeatable)",
        )
    run.add_argument("command", nargs="+", help="command to run, after --")
    return parser


if __name__ == "__main__":
    sys.exit(main())
