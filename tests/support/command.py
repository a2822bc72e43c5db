"""The ``formrelay`` and ``dramatiq`` commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from formrelay.config.settings import known_names


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without formrelay's variables, and with ``variables``."""
    ours = set(known_names())
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, **variables}


def run(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    program: str = "formrelay",
    stdin: str = "",
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the empty folder ``cwd`` (no ``.env`` is near)."""
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=cwd,
        env=clean_environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
