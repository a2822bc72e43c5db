"""Runs Python programs in forks of a process that has imported formrelay (saves 0.7 s of CPU).

``python fork_server.py SOCKET`` imports the modules first. Each request on the socket holds a
Python command line, an environment, a working directory and three file descriptors for the
standard streams. A forked child runs the program; the answer is its process id, then its exit
status.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

_REQUEST_BYTES = 1_000_000
#: Modules that import without settings. Missing modules are skipped (`.venv-oldest` lacks some).
_IMPORTS = (
    *(
        "formrelay.ops.cli.app",
        "formrelay.brokers.redis.broker",
        "formrelay.brokers.rabbitmq.broker",
    ),
    *("formrelay.sinks.api", "pycurl", "sqlite3"),
    *("django.core.management", "django.db.models", "django.test", "django.contrib.admin"),
)


def serve(listener: socket.socket) -> dict[str, Any]:
    """Accept requests for ever. Returns only in forked children, with the request to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _in_child(connection)
        connection.close()


def _in_child(connection: socket.socket) -> dict[str, Any]:
    """Fork again for the program; the first child waits for it and reports its exit status."""
    data, streams, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
    child = os.fork()
    if child:
        connection.sendall(b"%d" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # the client has timed out
            connection.sendall(b" %d" % status)
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    found: dict[str, Any] = json.loads(data)
    return found


def apply_request(request: dict[str, Any]) -> None:
    """Set environment, time zone, working directory and `sys.path` as a new process has them."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[0:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]


def run(what: str, *arguments: str) -> None:
    """Run ``-m MODULE …``, ``-c CODE …`` or ``FILE …``."""
    if what == "-m":
        name, *sys.argv[1:] = arguments
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif what == "-c":
        code, *rest = arguments
        sys.argv = [what, *rest]
        exec(code, {"__name__": "__main__"})
    else:
        sys.argv = [what, *arguments]
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    for imported in _IMPORTS:
        with suppress(ImportError):
            import_module(imported)
    gc.freeze()  # spares each exiting child a pass of the garbage collector over all modules
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    print("ready", flush=True)
    request = serve(listener)
    apply_request(request)
    run(*request["arguments"])
