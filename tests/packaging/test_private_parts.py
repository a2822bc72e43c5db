"""Private parts of other packages: each is used in one file, with tested versions only.

If this fails after an upgrade, read the file that is named. Check whether the package still works
in that way or has a public way now, and add the version here.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import NamedTuple

import pytest

from tests.support import checkout


class PrivatePart(NamedTuple):
    """A private part of a package, and the only file that uses it."""

    name: str
    file: str
    package: str
    major_versions: set[int]


PRIVATE_PARTS = [
    # Callbacks of a transaction; no public way tells which of them a rollback has dropped.
    PrivatePart("run_on_commit", "djangoapp/commit.py", "Django", {4, 5, 6}),
    # A forked process that frees a libcurl handle closes its parent's connection.
    PrivatePart("Py_IncRef", "sinks/http/curl.py", "pycurl", {7}),
    # Typer may contain its own copy of click, so the class of usage errors is taken from there.
    PrivatePart("BadParameter.__mro__", "ops/cli/app.py", "typer", {0}),
    # The logger of worker threads, whose lines are replaced by those of attempts.
    PrivatePart("dramatiq.worker.WorkerThread", "middleware/attempts.py", "dramatiq", {1, 2}),
    # What a worker thread does with a message, which packages wrap.
    PrivatePart("_WorkerThread.process_message", "brokers/attempt_threads.py", "dramatiq", {1, 2}),
]


@pytest.mark.parametrize("part", PRIVATE_PARTS, ids=lambda part: part.name)
def test_a_private_part_is_used_in_one_file_with_tested_versions(part: PrivatePart) -> None:
    sources = [
        path for path in checkout.files() if path.suffix == ".py" and path.parts[0] != "tests"
    ]
    users = [str(path) for path in sources if part.name in (checkout.ROOT / path).read_text()]
    assert users == [part.file]
    assert int(version(part.package).split(".")[0]) in part.major_versions
