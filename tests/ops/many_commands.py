"""Runs many commands in children of one process that has imported what they need.

The imports take most of a command's time. ``python many_commands.py piped|terminal`` reads the
arguments of the commands as JSON and prints what each has written.
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
    """Be the command."""
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
    """What a command writes to its standard output, and to its standard error."""
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
    """What a command writes to its terminal."""
    child, terminal = pty.fork()
    if child == 0:
        run(arguments)
    said = b""
    try:
        while piece := os.read(terminal, 65536):
            said += piece
    except OSError:
        pass  # the child has closed it
    os.wait()
    os.close(terminal)
    yield said.hex()


if __name__ == "__main__":
    how = {"piped": piped, "terminal": on_a_terminal}[sys.argv[1]]
    print(json.dumps([list(how(arguments)) for arguments in json.load(sys.stdin)]))
