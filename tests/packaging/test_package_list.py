"""setup.cfg lists every package; a package that it omits would be missing from the wheel."""

from __future__ import annotations

from tests.support import checkout


def test_the_package_list_has_every_folder_with_python_files() -> None:
    assert sorted(checkout.listed_packages()) == sorted(checkout.packages_on_disk())


def test_package_list_is_sorted() -> None:
    assert checkout.listed_packages() == sorted(checkout.listed_packages())
