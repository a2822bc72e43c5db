"""Runs Python programs in forks of a process that has imported formrelay (saves 0.7 s of CPU).

``python fork_server.py SOCKET`` imports the modules first. Each request on the socket holds a
Python command line, an environment, a working directory and three file descriptors for the
standard streams. A forked child runs the program; the answer is its process id, then its exit
status.

A program that replaces itself with another Python program (`os.execv`, as the commands that start
workers do) keeps its process id: the child runs the program in a child of its own, and the program
that follows in itself, where nothing of the first program is left.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

_REQUEST_BYTES = 200_000  # the kernel's limit for a packet is a little more
_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Modules that import without settings. Missing modules are skipped (`.venv-oldest` lacks some).
_IMPORTS = (
    *(
        "formrelay.ops.cli.app",
        "formrelay.brokers.embedded",
        "formrelay.brokers.redis.broker",
        "formrelay.brokers.rabbitmq.broker",
    ),
    *("formrelay.sinks.api", "pycurl", "sqlite3", "dramatiq.cli", "rich.markdown", "rich.table"),
    *("django.core.management", "django.db.models", "django.test", "django.contrib.admin"),
    *("django.core.management.commands.migrate", "django.contrib.auth.checks"),
    *("django.db.backends.sqlite3.base", "psycopg"),
    *("clickhouse_driver", "waitress.server", "django_tasks", "dkim"),
    "formrelay.actors.emails.render",
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
        for stream in streams:  # the reader of a pipe waits until all its writers are closed
            os.close(stream)
        connection.sendall(b"%d" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # the client has timed out
            connection.sendall(b"%d" % status)
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    found: dict[str, Any] = json.loads(data)
    if found["in_session"]:
        os.setsid()
    return _followed(found) if found["may_exec"] else found


def _followed(request: dict[str, Any]) -> dict[str, Any]:
    """Run a program in a child until it replaces itself; returns the request that follows.

    Exits as the program does if it replaces itself with nothing. Signals reach the program.
    """
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if not child:
        os.close(reading)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        os.execv = lambda _, argv: _hand_over(writing, argv)
        return request
    os.close(writing)
    before = [signal.signal(sent, lambda got, _: os.kill(child, got)) for sent in _FORWARDED]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    with open(reading, "rb") as pipe:
        following = pipe.read()
    status = os.waitpid(child, 0)[1]
    for sent, handler in zip(_FORWARDED, before, strict=True):
        signal.signal(sent, handler)
    if not following:
        _exit(os.waitstatus_to_exitcode(status))
    found: dict[str, Any] = json.loads(following)
    return found


def _hand_over(writing: int, argv: list[str]) -> NoReturn:
    """Do as `os.execv` with a Python program: what is not in the request ends here."""
    assert argv[0] == sys.executable, argv
    request = {"arguments": argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
    os.write(writing, json.dumps(request).encode())
    os._exit(0)


def apply_request(request: dict[str, Any]) -> None:
    """Set environment, time zone, working directory and `sys.path` as a new process has them."""
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.path[0:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]


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
        sys.path[0] = os.path.dirname(os.path.abspath(what))
        runpy.run_path(what, run_name="__main__")


def _status(code: object) -> int:
    """Exit status for `sys.exit(code)`."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _end(status: int) -> NoReturn:
    """End as Python does, but without clearing all modules, which would copy their memory."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Exit with a status, or by a signal if it is negative."""
    if status < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    for imported in _IMPORTS:
        with suppress(ImportError):
            import_module(imported)
    sys.modules["formrelay.ops.cli.app"].command()  # two thirds of what a short command does
    gc.freeze()  # spares each exiting child a pass of the garbage collector over all modules
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{sys.argv[1]}.new")
    listener.listen(64)
    os.rename(f"{sys.argv[1]}.new", sys.argv[1])  # clients wait for a socket that accepts them
    print("ready", flush=True)
    request = serve(listener)
    status = 0
    try:
        apply_request(request)
        run(*request["arguments"])
    except SystemExit as ending:
        status = _status(ending.code)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1 if isinstance(error, Exception) else -signal.SIGINT
    _end(status)
