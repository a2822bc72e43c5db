"""The ``formrelay`` command: one file for each subcommand, put together in ``app.py``."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Exits with 0 (fine), 1 (not fine) or 2 (wrong use)."""
    from .app import run

    run()
