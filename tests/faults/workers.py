"""Worker processes that tests kill and stop."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from tests.support.command import Program, clean_environment, run, run_python, start_python


class Workers:
    """Worker processes for some queues of a broker.

    Args:
        queues: variables of the queues, for example WEBHOOK_QUEUE.
        env: further variables.
    """

    def __init__(self, folder: Path, broker: str, *queues: str, **env: str) -> None:
        kind = "RABBITMQ" if broker.startswith("amqp") else "REDIS"
        self._folder = folder
        names = {name: f"{name.lower()}-{os.getpid()}-{folder.name[-20:]}" for name in queues}
        self._options = [part for name in names.values() for part in ("--queue", name)]
        away = {"API_URL": "http://127.0.0.1:1"}
        self._env = clean_environment(
            **{f"{kind}_URL": broker, "HEARTBEAT_TIMEOUT": "2"}, **names, **(away | env)
        )

    def send(self, *arguments: str) -> None:
        """Run a program of senders.py in the workers' environment."""
        program = str(Path(__file__).with_name("senders.py"))
        run_python(program, *arguments, env=self._env, cwd=self._folder).check_returncode()

    def command(self, *arguments: str, stdin: str = "") -> CompletedProcess[str]:
        """Run the command in the workers' environment."""
        return run(*arguments, env=self._env, cwd=self._folder, stdin=stdin)

    def is_done(self) -> bool:
        """Whether no job waits, is scheduled, in flight or dead."""
        found = json.loads(self.command("queues", "--json").stdout)
        names = ("waiting", "scheduled", "in_flight", "dead")
        ours = [each for each in found if each["queue"] in self._options]
        return bool(ours) and not any(each[name] for each in ours for name in names)

    @property
    def log(self) -> Path:
        """The file with the log lines of all workers."""
        return self._folder / "worker.log"

    def logged_done(self) -> int:
        """The number of attempts that ended well, as the log says."""
        text = self.log.read_text() if self.log.exists() else ""
        return text.replace(" ", "").count('"outcome":"done"')

    def limit(self, **variables: str) -> None:
        """Set variables of workers that start later."""
        self._env |= variables

    def dead_letters(self) -> str:
        """What ``formrelay dlq list --json`` prints about the queues."""
        queues = zip(self._options[::2], self._options[1::2], strict=True)
        found = [self.command("dlq", "list", *queue, "--json") for queue in queues]
        return "".join(done.stdout for done in found)

    @contextmanager
    def one(self) -> Iterator[Program]:
        """A worker: Dramatiq's process and its forks, in a process group."""
        process = start_python(
            *("-m", "formrelay", "worker", *self._options),
            cwd=self._folder,
            env=self._env,
            log=self.log,
            in_session=True,
            may_exec=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=40)


def kill(worker: Program) -> None:
    """Kill all processes of a worker."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
