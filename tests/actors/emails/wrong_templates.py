"""A folder of templates, most of them wrong."""

from __future__ import annotations

from pathlib import Path


def write_wrong_templates(folder: Path) -> None:
    (folder / "good.html").write_text("{% extends '_layout.html' %}")
    (folder / "digest.html").write_text("<p>\n{% if %}")
    (folder / "orphan.html").write_text("{% include '_gone.html' %}")
    (folder / "latin.txt").write_bytes(b"\xe4")
    (folder / "notes.md").write_text("{% if %}")


WRONG_TEMPLATES = [
    "expected the template 'digest.html' to be a Jinja2 template, got an error in line 2",
    "expected the template 'latin.txt' to be a text in UTF-8 that can be read",
    "the template 'orphan.html' builds on '_gone.html', which is missing",
]
