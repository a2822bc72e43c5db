"""The ``formrelay`` command in a folder, with the embedded broker there."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from formrelay.brokers.embedded import ensure_running, release
from tests.support.command import Program, clean_environment, run, start_python


class Shell:
    """Runs the command in one folder.

    Args:
        env: variables beside those of the embedded broker.
    """

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {"BROKER": "embedded", "API_URL": "http://127.0.0.1:1", **env}

    def __call__(
        self, *arguments: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = run(*arguments, cwd=self.folder, env=self.env, stdin=stdin)
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    @contextmanager
    def redis_client(self) -> Iterator[redis.Redis]:
        """A client of the embedded broker in the folder, which runs until the end."""
        folder = self.folder / ".formrelay"
        try:
            with redis.Redis.from_url(ensure_running(folder)) as client:
                yield client
        finally:
            release(folder)

    def on_terminal(
        self, *arguments: str, keys: bytes = b"", until: bytes = b"", columns: int = 80
    ) -> tuple[int, str]:
        """Run the command on a terminal; return its exit status and the text without styles.

        Args:
            keys: typed at once; a question reads them.
            until: then Ctrl-C is typed as soon as this text is shown.
        """
        ours, other = pty.openpty()
        env = clean_environment(**self.env, COLUMNS=str(columns), TERM="xterm")
        os.write(ours, keys)
        streams = [other, other, other]
        command = Program(("-m", "formrelay", *arguments), self.folder, env, streams)
        os.close(other)
        shown, is_stopped = b"", False
        with suppress(OSError):  # the command has closed the terminal
            while piece := os.read(ours, 65_536):
                shown += piece
                if until and until in shown and not is_stopped:
                    is_stopped = True
                    command.send_signal(signal.SIGINT)
        os.close(ours)
        return command.wait(60), re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())

    def json(self, *arguments: str, status: int = 0, stdin: str = "") -> Any:
        return json.loads(self(*arguments, "--json", status=status, stdin=stdin).stdout)

    def send(self, url: str, *options: str, **payload: Any) -> str:
        """Send a webhook; return the id of its job."""
        payload = {"url": url, "body": {"a": 1}, "secret": "whsec_c2VjcmV0", **payload}
        return self("send", "deliver_webhook", json.dumps(payload), *options).stdout.strip()

    def queue(self, name: str) -> dict[str, Any]:
        """Return the counts of a queue."""
        (found,) = [counts for counts in self.json("queues") if counts["queue"] == name]
        return dict(found)

    @contextmanager
    def worker(self, *queues: str, imports: str = "") -> Iterator[Program]:
        """A worker of these queues; of all queues if none is named."""
        options = [*queues, *(["--import", imports] if imports else [])]
        process = start_python(
            *("-m", "formrelay", "worker", *options),
            cwd=self.folder,
            env=clean_environment(**self.env),
            log=self.folder / "worker.log",
            may_exec=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(60) == 0
