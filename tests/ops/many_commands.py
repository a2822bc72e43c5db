"""Runs many commands in forks of a process that has imported their modules.

The imports take most of a command's time. ``python many_commands.py piped|terminal`` reads the
arguments of the commands as JSON and prints the output of each.
"""

from __future__ import annotations

import json
import os
import pty
import sys
import tempfile
from collections.abc import Iterator
from typing import NoReturn

import clickhouse_driver  # noqa: F401
import pycurl  # noqa: F401
import requests  # noqa: F401
import rich.console
import rich.table  # noqa: F401

import formrelay.brokers.redis.broker
import formrelay.sinks.clickhouse  # noqa: F401
from formrelay.ops.cli import main


def run(arguments: list[str]) -> NoReturn:
    """Run the command in this process."""
    sys.argv = ["formrelay", *arguments]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        os._exit(status)


def piped(arguments: list[str]) -> Iterator[str]:
    """Run a command with pipes; returns its standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if os.fork() == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            run(arguments)
        os.wait()
        for file in (out, err):
            file.seek(0)
            yield file.read().hex()


def on_a_terminal(arguments: list[str]) -> Iterator[str]:
    """Run a command on a terminal; returns its output."""
    child, terminal = pty.fork()
    if child == 0:
        run(arguments)
    os.write(terminal, b"n\n")  # declines a question
    said = b""
    try:
        while piece := os.read(terminal, 65536):
            said += piece
    except OSError:
        pass  # the child has closed the terminal
    os.wait()
    os.close(terminal)
    yield said.hex()


if __name__ == "__main__":
    how = {"piped": piped, "terminal": on_a_terminal}[sys.argv[1]]
    print(json.dumps([list(how(arguments)) for arguments in json.load(sys.stdin)]))
