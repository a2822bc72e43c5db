"""Lists the files of the checkout, and those that setup.cfg puts into the wheel."""

from __future__ import annotations

import configparser
import functools
import subprocess
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent.parent

#: Files of the package at the root of the checkout.
AT_THE_TOP = {"__init__.py", "__main__.py", "worker.py", "py.typed"}
#: Folders inside a package that are not installed.
NOT_INSTALLED = ("examples/publishers",)


@functools.cache
def files() -> tuple[PurePosixPath, ...]:
    """Paths, relative to the checkout, of all files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Git also lists files that were deleted without a commit.
    return tuple(
        PurePosixPath(name) for name in sorted(set(listed.split("\0"))) if (ROOT / name).is_file()
    )


def folders() -> set[str]:
    """Folders at the root of the checkout that are packages."""
    return {
        path.parts[0] for path in files() if len(path.parts) == 2 and path.name == "__init__.py"
    }


def listed_packages() -> list[str]:
    """Value of `packages` in setup.cfg."""
    return _option("packages")


def packages_on_disk() -> set[str]:
    """Names of all packages: every folder that contains Python files."""
    return {
        ".".join(PurePosixPath(installed).parent.parts)
        for installed in installed_files()
        if installed.endswith(".py")
    }


def installed_files() -> dict[str, PurePosixPath]:
    """Path in the wheel -> path in the checkout, for every file that belongs in the wheel.

    These are all files of the packages except Markdown and `NOT_INSTALLED`.
    """
    tops = folders()
    return {
        f"formrelay/{path}": path
        for path in files()
        if path.suffix != ".md"
        and (path.parts[0] in tops or str(path) in AT_THE_TOP)
        and not any(path.is_relative_to(folder) for folder in NOT_INSTALLED)
    }


def _option(name: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (line.strip() for line in config["options"][name].splitlines())
    return [line for line in lines if line]
