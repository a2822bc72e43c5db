"""docs/packages.md shows the examples as they are run by the tests beside this file."""

from __future__ import annotations

import re

from tests.support.checkout import ROOT


def test_the_document_shows_every_example_as_it_is() -> None:
    text = (ROOT / "docs/packages.md").read_text()
    shown = dict(re.findall(r"```py\n# (with_\w+)\.py\n(.*?)```", text, re.S))
    files = (ROOT / "examples/packages").glob("with_*.py")
    assert shown == {file.stem: file.read_text() for file in files}
