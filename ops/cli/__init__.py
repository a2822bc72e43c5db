"""The ``formrelay`` command: one file for each subcommand, put together in ``app.py``."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Exits with 0 (fine), 1 (not fine) or 2 (wrong use)."""
    import sys

    try:
        from .app import run

        run()
    except KeyboardInterrupt:  # while modules are imported: nothing has been started
        from ..output import say_error

        say_error("formrelay: stopped by Ctrl-C")
        sys.exit(130)
