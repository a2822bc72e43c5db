"""A program that prints its arguments and environment, then ends in the requested way."""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> None:
    names = ("A", "TZ", "PYTHONPATH")
    print(
        json.dumps(
            {
                "argv": sys.argv[1:],
                "cwd": os.getcwd(),
                "env": {name: os.environ.get(name) for name in names},
                "variables": len(os.environ),
                "stdin": sys.stdin.read(),
                "isatty": sys.stdout.isatty(),
                "hour": time.strftime("%H", time.localtime(0)),
                "path": os.environ["PYTHONPATH"] in sys.path,
                "name": __name__,
            }
        ),
        flush=True,
    )
    match sys.argv[1]:
        case "exit":
            sys.exit(3)
        case "text":
            sys.exit("as requested")
        case "interrupt":
            raise KeyboardInterrupt
        case "raise":
            raise ValueError("as requested")
        case "kill":
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
