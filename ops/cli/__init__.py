"""The ``formrelay`` command: one file for each subcommand, put together in ``app.py``."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Exits with 0 (fine), 1 (not fine) or 2 (wrong use)."""
    import os
    import sys

    if os.getpid() == 1:
        # The kernel drops signals of a container's first process unless it handles them.
        import signal

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        from .app import run

        run()
    except KeyboardInterrupt:  # while modules are imported: nothing has been started
        from ..output import say_error

        say_error("formrelay: stopped by Ctrl-C")
        sys.exit(130)
