"""The folders of the project, for worker processes."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def project_folders() -> Iterator[str]:
    """Yield the folders on Python's path that belong to the project, such as manage.py's.

    Leaves out Python's own folders, which the worker has too.
    """
    pythons = {Path(path) for path in sysconfig.get_paths().values()}
    for entry in sys.path:
        folder = Path(entry).absolute()
        if folder.is_dir() and folder.name != "lib-dynload" and folder not in pythons:
            yield str(folder)
