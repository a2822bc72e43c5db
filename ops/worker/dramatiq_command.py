"""Dramatiq's command line, whose main process writes log lines as its workers do.

``python -m formrelay.ops.worker.dramatiq_command`` takes the arguments of ``dramatiq``.
"""

from __future__ import annotations

import sys
from typing import Any

from dramatiq import cli

from ...config import LoggingSettings
from ...config.settings import read_settings
from ...core.errors import ConfigError
from ..logs import setup_logging
from .process_output import log_unexpected_errors


def main() -> int:
    """Run Dramatiq's main process; returns its exit status."""
    command: Any = cli  # has no types
    arguments = command.make_argument_parser().parse_args(sys.argv[1:])
    # With these handlers in place, Dramatiq adds none for its own format.
    setup_logging(logging_settings())
    log_unexpected_errors()
    # Dramatiq executes this to restart on SIGHUP, and with --watch when a file has changed.
    sys.argv = [sys.executable, "-m", __spec__.name, *sys.argv[1:]]
    status: int = command.main(arguments)
    return status


def logging_settings() -> LoggingSettings:
    """Read the settings of logs, even if others are invalid: the worker processes report those.

    The settings of this process stay unread, so that the program of the workers may choose them.
    """
    try:
        return read_settings().settings.logging
    except ConfigError:  # a .env file that cannot be read
        return LoggingSettings()


if __name__ == "__main__":
    sys.exit(main())
