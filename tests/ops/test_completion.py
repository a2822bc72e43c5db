"""Completion of commands, queues and ids in shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from formrelay.brokers.redis.keys import Keys
from tests.ops.shell import Shell
from tests.support.command import clean_environment, run_python
from tests.support.missing import skip_or_fail
from tests.support.waiting import wait_until

MAIN = "import sys; sys.argv[0] = 'formrelay'; from formrelay.ops.cli import main; main()"
#: Names that a shell would run, split or obey.
EVIL = [
    "$(touch pwned)",
    "`touch pwned`",
    '"; touch pwned; "',
    "\x1b[2J",
    "two words",
    "--yes",
    "*",
]


def completed(folder: Path, words: str, **env: str) -> list[str]:
    """Names that bash gets for the last of some words."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    env = clean_environment(**env, **asked, _FORMRELAY_COMPLETE="complete_bash")
    done = run_python("-c", MAIN, cwd=folder, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("formrelay hea", ["health"]),
        ("formrelay webhooks endpoints dis", ["disable"]),
        ("formrelay send --dr", ["--dry-run"]),
        ("formrelay queues pause e", ["emails", "events"]),
        ("formrelay schema w", ["webhook.send"]),
        ("formrelay jobs show ", []),
    ],
)
def test_completion_prints_the_names_alone_and_starts_no_broker(
    tmp_path: Path, words: str, names: list[str]
) -> None:
    assert completed(tmp_path, words, BROKER="embedded") == names
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("env", [{}, {"REDIS_URL": "redis://127.0.0.1:1"}, {"BROKER": "kafka"}])
def test_without_a_broker_completion_is_silent(tmp_path: Path, env: dict[str, str]) -> None:
    assert completed(tmp_path, "formrelay jobs show ", **env) == []
    assert completed(tmp_path, "formrelay jobs sh", **env) == ["show"]


@pytest.fixture
def shell(tmp_path: Path, redis_url: str) -> Shell:
    """A Redis with a job, an own queue and queues with hostile names."""
    shell = Shell(tmp_path, BROKER="redis", REDIS_URL=redis_url)
    keys = Keys("dramatiq")
    with redis.Redis.from_url(redis_url) as client:
        for queue in ("own-queue", *EVIL):
            client.rpush(keys.waiting(queue), "job-1", *EVIL)
            for id in ("job-1", *EVIL):
                client.hset(keys.bodies(queue), id, json.dumps({"queue_name": queue}))
    return shell


@pytest.mark.redis
def test_names_of_the_broker_are_completed_unless_a_shell_would_run_them(shell: Shell) -> None:
    code = (
        "print('noise')\nimport dramatiq\n@dramatiq.actor(queue_name='mine')\ndef my_job(): ...\n"
    )
    (shell.folder / "own.py").write_text(code)
    env = {**shell.env, "FORMRELAY_IMPORTS": "own"}
    for words, name in (
        ("formrelay queues purge o", "own-queue"),
        ("formrelay queues purge m", "mine"),
        ("formrelay send my", "my_job"),
        ("formrelay jobs list --actor my", "my_job"),
        ("formrelay jobs show ", "job-1"),
    ):
        # The broker has only a second, which may be too short on a busy machine.
        names = wait_until(lambda words=words: completed(shell.folder, words, **env))
        assert names == [name]
    assert completed(shell.folder, "formrelay dlq show ", **env) == []
    queues = completed(shell.folder, "formrelay dlq list --queue ", **env)
    assert set(queues) > {"own-queue", "webhooks", "mine"}
    assert not set(queues) & set(EVIL)


def in_bash(words: str) -> list[str]:
    *_, last = words.split(" ")
    number = len(words.split(" ")) - 1
    return [
        *("bash", "-c"),
        f'eval "$(formrelay completion bash)"; COMP_WORDS=({words}); COMP_CWORD={number}; '
        f'_formrelay_completion formrelay "{last}"; echo "${{COMPREPLY[*]}}"',
    ]


def in_zsh(words: str) -> list[str]:
    # Without a line editor, _arguments cannot run; the function shows what it would offer.
    return [
        *("zsh", "-f", "-c"),
        'compdef() { :; }; _arguments() { print -r -- "$@"; }; eval "$(formrelay completion zsh)"; '
        f"words=({words}); CURRENT=$#words; _formrelay_completion",
    ]


def in_fish(words: str) -> list[str]:
    return ["fish", "-c", f"formrelay completion fish | source; complete -C '{words}'"]


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.parametrize("run_in", [in_bash, in_zsh, in_fish])
def test_a_shell_completes_queues(shell: Shell, run_in: Callable[[str], list[str]]) -> None:
    command = run_in("formrelay queues pause o")
    if shutil.which(command[0]) is None:
        skip_or_fail(f"{command[0]} is not installed")
    found = wait_until(lambda: "own-queue" in (shown := complete(shell, command)) and shown)
    assert "webhooks" not in found
    assert not (shell.folder / "pwned").exists()


def complete(shell: Shell, command: list[str]) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=shell.folder,
        env=clean_environment(**shell.env, PATH=path, HOME=str(shell.folder)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout
