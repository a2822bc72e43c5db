"""What the checkout holds, and where setup.cfg puts it in the package."""

from __future__ import annotations

import configparser
import functools
import subprocess
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent.parent


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


def package_dir() -> dict[str, PurePosixPath]:
    """The mapping of setup.cfg: package to folder."""
    pairs = (line.partition("=") for line in _option("package_dir"))
    return {name.strip(): PurePosixPath(folder.strip()) for name, _, folder in pairs}


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

    That is every file of a mapped folder but the notes for readers of the checkout.
    """
    found: dict[str, PurePosixPath] = {}
    for package, folder in package_dir().items():
        for path in files():
            if path.is_relative_to(folder) and path.suffix != ".md":
                inside = PurePosixPath(*package.split(".")) / path.relative_to(folder)
                found[str(inside)] = path
    return found


def _option(name: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = (line.strip() for line in config["options"][name].splitlines())
    return [line for line in lines if line]
