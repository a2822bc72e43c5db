"""What the checkout holds, and where setup.cfg puts it in the package."""

from __future__ import annotations

import configparser
import functools
import subprocess
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent.parent

#: The files of the package beside its folders.
AT_THE_TOP = {"__init__.py", "__main__.py", "worker.py", "py.typed"}
#: Folders inside a package that are for readers of the checkout.
NOT_INSTALLED = ("examples/publishers",)


@functools.cache
def files() -> tuple[PurePosixPath, ...]:
    """All files that git tracks or would add, by their path in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # One that was deleted and not committed is still listed.
    return tuple(
        PurePosixPath(name) for name in sorted(set(listed.split("\0"))) if (ROOT / name).is_file()
    )


def folders() -> set[str]:
    """The folders at the top of the checkout that are packages."""
    return {
        path.parts[0] for path in files() if len(path.parts) == 2 and path.name == "__init__.py"
    }


def listed_packages() -> list[str]:
    """The `packages` of setup.cfg."""
    return _option("packages")


def packages_on_disk() -> set[str]:
    """Every package, by the folders that hold Python files."""
    return {
        ".".join(PurePosixPath(installed).parent.parts)
        for installed in installed_files()
        if installed.endswith(".py")
    }


def installed_files() -> dict[str, PurePosixPath]:
    """Path in the wheel -> path in the checkout, for all that belongs in the wheel.

    That is every file of a package but the notes for readers of the checkout.
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
