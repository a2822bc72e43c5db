#!/usr/bin/env python3
"""Make `.types/formrelay/`, the package as static tools expect to find it.

setup.cfg maps folders of the checkout into the package, which mypy, pyright and
import-linter cannot follow. A git-ignored tree of links can: each folder that
`package_dir` names is linked by its last name, and each file of the package's own
folder by its own. Folders inside a mapped one come along through its link. Safe to
run again at any time; links that no longer lead anywhere are removed.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "formrelay"


def read_package_dir(setup_cfg: Path) -> dict[str, str]:
    """The `package_dir` of setup.cfg: package name to folder."""
    config = configparser.ConfigParser()
    config.read_string(setup_cfg.read_text())
    lines = config["options"]["package_dir"].strip().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): folder.strip() for name, _, folder in pairs}


def wanted_links(root: Path) -> dict[str, Path]:
    """What has to stand in `.types/formrelay/`: name to target."""
    links: dict[str, Path] = {}
    for package, folder in read_package_dir(root / "setup.cfg").items():
        target = root / folder
        if package == PACKAGE:
            files = (path for path in target.iterdir() if path.is_file())
            links |= {path.name: path for path in files}
            continue
        parent, _, name = package.rpartition(".")
        if parent != PACKAGE:
            raise SystemExit(
                f"link-types: expected package_dir to map folders right below {PACKAGE},"
                f" got {package}; put it inside the folder of {parent}"
            )
        if not target.is_dir():
            raise SystemExit(
                f"link-types: setup.cfg maps {package} to {folder}, which is no folder"
            )
        links[name] = target
    return links


def link(root: Path) -> int:
    """Bring the tree up to date; returns the number of links in it."""
    tree = root / ".types" / PACKAGE
    tree.mkdir(parents=True, exist_ok=True)
    wanted = {name: os.path.relpath(target, tree) for name, target in wanted_links(root).items()}
    for present in tree.iterdir():
        if not present.is_symlink():
            # Tools write caches into the tree's own folder; no link of ours.
            continue
        if os.readlink(present) != wanted.get(present.name):
            present.unlink()
    for name, target in wanted.items():
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(target)
    return len(wanted)


if __name__ == "__main__":
    print(f"link-types: {link(ROOT)} links in .types/{PACKAGE}")
    sys.exit(0)
