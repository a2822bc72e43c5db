"""Runs Python programs without the wait for the imports of formrelay (0.7 s of computing).

``python fork_server.py SOCKET`` imports what the programs import. Each request on its socket is a
command line of Python with its three streams. A child that was forked for it runs it as a process
of its own, with its own environment, folder and exit status.
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
#: What can be imported without settings; the oldest dependencies have no Django beside them.
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
    """Accept requests for ever. Returns in the child of each request, with the request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _in_child(connection)
        connection.close()


def _in_child(connection: socket.socket) -> dict[str, Any]:
    """Fork once more, for the program; the first child reports its exit status."""
    data, streams, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
    child = os.fork()
    if child:
        connection.sendall(b"%d" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # nobody waits for it any more
            connection.sendall(b" %d" % status)
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    found: dict[str, Any] = json.loads(data)
    return found


def be_started(request: dict[str, Any]) -> None:
    """Be as Python is when it starts a program."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[0:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]


def run(what: str, *arguments: str) -> None:
    """``-m MODULE …``, ``-c CODE …`` or ``FILE …``."""
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
    gc.freeze()  # children that end do not look through all of it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    print("ready", flush=True)
    request = serve(listener)
    be_started(request)
    run(*request["arguments"])
