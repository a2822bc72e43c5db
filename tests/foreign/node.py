"""Runs the publishers of examples/publishers with Node."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

from tests.support.checkout import ROOT
from tests.support.command import clean_environment
from tests.support.missing import skip_or_fail

FOLDER = ROOT / "examples" / "publishers"
MODULES = FOLDER / "node_modules"


@functools.cache
def install() -> str:
    """Install the npm packages unless they are present; returns the error, if any."""
    for program, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    MODULES.mkdir(exist_ok=True)
    stamp = MODULES / ".formrelay"
    wanted = hashlib.sha256((FOLDER / "package.json").read_bytes()).hexdigest()
    with (MODULES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run in this checkout may install too
        if stamp.exists() and stamp.read_text() == wanted:
            return ""
        done = subprocess.run(
            ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"],
            cwd=FOLDER,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            return f"npm could not install the publishers' packages: {done.stderr[-1000:]}"
        stamp.write_text(wanted)
    return ""


def publish(
    url: str, queue: str, lines: Iterable[Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the publisher for the broker of the URL.

    Args:
        lines: jobs for its standard input (strings are sent unchanged); None: its own example.
    """
    wrong = install()
    if wrong:
        skip_or_fail(wrong)
    file, variable = (
        ("rabbitmq.mjs", "RABBITMQ_URL") if url.startswith("amqp") else ("redis.mjs", "REDIS_URL")
    )
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines or ()]
    return subprocess.run(
        ["node", file, queue, *(["-"] if lines is not None else [])],
        cwd=FOLDER,
        env=clean_environment(**{variable: url}),
        input="".join(f"{text}\n" for text in texts),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
