"""scripts/link-types.py, on a small tree of its own."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "link-types.py"
link = runpy.run_path(str(SCRIPT))["link"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with two mapped folders."""
    for file in ("src/formrelay/__init__.py", "core/__init__.py", "examples/data/x.csv"):
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.touch()
    _map(
        tmp_path,
        "formrelay = src/formrelay",
        "formrelay.core = core",
        "formrelay.ex = examples/data",
    )
    return tmp_path


def test_links_files_of_the_package_and_mapped_folders(root: Path) -> None:
    assert link(root) == 3
    tree = root / ".types" / "formrelay"
    assert sorted(path.name for path in tree.iterdir()) == ["__init__.py", "core", "ex"]
    assert (tree / "__init__.py").resolve() == root / "src" / "formrelay" / "__init__.py"
    assert (tree / "ex" / "x.csv").is_file()
    assert not (tree / "core").readlink().is_absolute()


def test_second_run_changes_nothing_and_stale_links_go(root: Path) -> None:
    link(root)
    before = (root / ".types/formrelay/core").lstat().st_ino
    (root / ".types/formrelay/gone").symlink_to("../../gone")
    _map(root, "formrelay = src/formrelay", "formrelay.core = core")
    link(root)
    tree = root / ".types" / "formrelay"
    assert sorted(path.name for path in tree.iterdir()) == ["__init__.py", "core"]
    assert (tree / "core").lstat().st_ino == before


def test_mapped_folder_that_is_missing_is_named(root: Path) -> None:
    _map(root, "formrelay = src/formrelay", "formrelay.none = none")
    with pytest.raises(SystemExit, match=r"formrelay\.none to none"):
        link(root)


def _map(root: Path, *lines: str) -> None:
    body = "\n    ".join(lines)
    (root / "setup.cfg").write_text(f"[options]\npackage_dir =\n    {body}\n")
