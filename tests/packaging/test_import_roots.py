"""No module imports a folder of the package without `formrelay.` in front.

The checkout is on sys.path under pytest and `python -m`, so `import actors.events` would import a
second copy of the module, and an actor would be declared twice. Ruff's banned-api cannot check
this, because it takes a relative import inside `actors/` for an import of `actors`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support import checkout


def test_no_folder_of_the_package_is_imported_by_its_bare_name() -> None:
    roots = checkout.folders()
    assert {"core", "actors", "djangoapp"} <= roots
    wrong = [
        f"{path}:{line}: import formrelay.{name}, not {name}"
        for path in checkout.files()
        if path.suffix == ".py"
        for line, name in _absolute_imports((checkout.ROOT / path).read_text())
        if name.split(".")[0] in roots
    ]
    assert wrong == []


def _absolute_imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
