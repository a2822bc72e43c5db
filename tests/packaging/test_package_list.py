"""setup.cfg names every package by hand; a folder it forgets is missing from the wheel."""

from __future__ import annotations

from tests.support import checkout


def test_packages_are_the_folders_that_hold_python_files() -> None:
    assert sorted(checkout.listed_packages()) == sorted(checkout.packages_on_disk())


def test_package_list_is_sorted() -> None:
    assert checkout.listed_packages() == sorted(checkout.listed_packages())
