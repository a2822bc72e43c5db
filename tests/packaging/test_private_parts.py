"""What formrelay uses of other packages' private parts: in one file each, with tested versions.

Where this fails after an upgrade: read the file that is named, see whether the package still works
that way or has a public way now, and add the version here.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import NamedTuple

import pytest

from tests.support import checkout


class PrivatePart(NamedTuple):
    """A private part of a package, and the one file that relies on it."""

    name: str
    file: str
    package: str
    major_versions: set[int]


PRIVATE_PARTS = [
    # Django keeps the callbacks of a transaction there, and tells nobody which a rollback dropped.
    PrivatePart("run_on_commit", "djangoapp/commit.py", "Django", {4, 5, 6}),
    # A libcurl handle that a forked process frees closes the connection of its parent.
    PrivatePart("Py_IncRef", "sinks/http/curl.py", "pycurl", {7}),
    # Typer may bring a click of its own, so the class of usage errors is taken from Typer's.
    PrivatePart("BadParameter.__mro__", "ops/cli/app.py", "typer", {0}),
    # The logger of a worker thread, whose lines the attempts replace.
    PrivatePart("dramatiq.worker.WorkerThread", "middleware/attempts.py", "dramatiq", {1, 2}),
]


@pytest.mark.parametrize("part", PRIVATE_PARTS, ids=lambda part: part.name)
def test_a_private_part_is_used_in_one_file_with_tested_versions(part: PrivatePart) -> None:
    sources = [
        path for path in checkout.files() if path.suffix == ".py" and path.parts[0] != "tests"
    ]
    users = [str(path) for path in sources if part.name in (checkout.ROOT / path).read_text()]
    assert users == [part.file]
    assert int(version(part.package).split(".")[0]) in part.major_versions
