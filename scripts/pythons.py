"""Finds the Pythons of this machine that the tests run on.

Searched are the folders of PATH, and the installations of pyenv and uv, whose Pythons need not be
on PATH. Pythons that cannot create virtual environments are left out.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Supported versions, oldest first. The classifiers of setup.cfg are these (tests/packaging).
SUPPORTED = ("3.11", "3.12", "3.13")

_DESCRIBE = (
    "import json, sys, venv;"
    "base = getattr(sys, '_base_executable', sys.executable);"
    "print(json.dumps([*sys.version_info[:4], sys.abiflags, base]))"
)


@dataclass(frozen=True, order=True)
class Python:
    """An installed Python.

    Args:
        release: such as (3, 13, 0).
        path: its program, outside of virtual environments.
    """

    release: tuple[int, ...]
    path: Path

    @property
    def version(self) -> str:
        """Its version without the patch release: `3.13`."""
        return ".".join(map(str, self.release[:2]))

    def __str__(self) -> str:
        return ".".join(map(str, self.release))


def running_python() -> Python:
    """The Python of this process."""
    base = getattr(sys, "_base_executable", sys.executable)
    return Python(tuple(sys.version_info[:3]), Path(base))


@functools.cache
def find_pythons() -> tuple[Python, ...]:
    """The supported Pythons of this machine, as :func:`pythons_in`."""
    return tuple(pythons_in(os.environ))


def pythons_in(environment: Mapping[str, str]) -> list[Python]:
    """The newest patch release of each supported version, oldest version first.

    This process's Python is taken for its version, as it is in `.venv`.
    """
    running = running_python()
    found = [running] if running.version in SUPPORTED else []
    for version in SUPPORTED:
        if version != running.version:
            pythons = (describe(path, version) for path in candidates(version, environment))
            found += sorted(filter(None, pythons))[-1:]
    return sorted(found)


def candidates(version: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """Existing programs that may be a Python of a version (`3.13`)."""
    for entry in filter(None, environment.get("PATH", "").split(os.pathsep)):
        if (Path(entry) / f"python{version}").is_file():
            yield Path(entry) / f"python{version}"
    home = Path(environment.get("HOME", "/"))
    data = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
    installed = [
        (Path(environment.get("PYENV_ROOT") or home / ".pyenv") / "versions", f"{version}.*"),
        (
            Path(environment.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python"),
            f"cpython-{version}.*",
        ),
    ]
    for folder, pattern in installed:
        yield from folder.glob(f"{pattern}/bin/python{version}")


def describe(path: Path, version: str) -> Python | None:
    """The Python at a path; None if it does not run, or is another version.

    Neither prereleases count nor free-threaded and debug builds.

    For example, pyenv has a `python3.13` on PATH that fails unless that version is activated.
    """
    program = shutil.which(path)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-I", "-c", _DESCRIBE],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        *release, level, flags, base = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    python = Python(tuple(release), Path(base))
    is_usual = (python.version, level, flags) == (version, "final", "")
    return python if is_usual else None
