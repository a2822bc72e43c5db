"""Programs that open chdb:// databases: ``python embedded_programs.py NAME URL``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

from formrelay.core.errors import FormrelayError
from formrelay.sinks.clickhouse import ClickHouse, connect


def open_(url: str, database: str = "events") -> ClickHouse:
    second = timedelta(seconds=1)
    return connect(
        url,
        database=database,
        user="default",
        password=lambda: None,
        timeout=30 * second,
        connect_timeout=second,
    )


def error_of(work: Callable[[], object]) -> str:
    try:
        work()
    except FormrelayError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def ping(url: str) -> None:
    """Ping the engine and print the error, if any."""
    print(error_of(open_(url).ping))


def two_processes(url: str) -> None:
    """Ping from a second process while the first has the folder open."""
    client = open_(url)
    client.ping()
    second = subprocess.run(
        [sys.executable, __file__, "ping", url], capture_output=True, text=True, check=True
    )
    print(os.getpid(), second.stdout, second.stderr)
    client.ping()


def killed_child(url: str) -> None:
    """Open the folder after a child that had it open was killed."""
    child = os.fork()
    if child == 0:
        open_(url).ping()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    open_(url).ping()


def made_before_a_fork(url: str) -> None:
    """Create a client before a fork, and use it in the child, then in the parent."""
    client = open_(url)
    child = os.fork()
    if child == 0:
        client.ping()
        client.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    client.ping()


def opened_before_a_fork(url: str, in_child: str) -> None:
    """Use the parent's client, or a new client, in the child of a process with the folder open."""
    client = open_(url)
    client.ping()
    child = os.fork()
    if child == 0:
        for use in ("close", "ping"):
            its_own = client if in_child == "client" else open_(url)
            error = error_of(getattr(its_own, use))
        print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    client.ping()


def two_folders(url: str) -> None:
    """Open a second folder before and after all clients of the first are closed."""
    one, two = open_(url + "/a"), open_(url + "/b")
    again = open_(url + "/a/../a", database="other")
    one.ping()
    again.ping()
    print(error_of(two.ping))
    one.close()
    print(error_of(two.ping)[:11])
    again.close()
    print(error_of(two.ping))


def write(url: str) -> None:
    """Insert a row and print the number of rows."""
    client = open_(url)
    client.command("CREATE TABLE IF NOT EXISTS t (a UInt8) ENGINE = MergeTree ORDER BY a")
    client.insert("t", ("a",), [[1]])
    print(client.query("SELECT count() FROM t")[0][0])


if __name__ == "__main__":
    _, name, *arguments = sys.argv
    globals()[name](*arguments)
