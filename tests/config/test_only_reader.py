"""No code outside of config/ reads the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["core", "sinks", "middleware", "brokers", "actors", "ops", "djangoapp"]
READS = re.compile(r"\bos\.(environb?|getenvb?)\b|from os import .*\b(environ|getenv)|load_dotenv")


@pytest.mark.parametrize(
    "text",
    ["os.environ['X']", "os.getenv('X')", "from os import environ", "from os import path, getenv"],
)
def test_the_search_finds_reads_of_the_environment(text: str) -> None:
    assert READS.search(text)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_other_folder_reads_the_environment(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if READS.search(line)
    ]
    assert found == [], "take a section of formrelay.config.Settings as an argument instead"
