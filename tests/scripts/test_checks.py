"""scripts/checks.py: what it makes of setup.cfg."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
oldest_pins = runpy.run_path(str(ROOT / "scripts" / "checks.py"))["oldest_pins"]


def test_the_lower_bounds_are_those_of_setup_cfg() -> None:
    pins = dict(pin.split("==") for pin in oldest_pins((ROOT / "setup.cfg").read_text()))
    assert sorted(pins) == ["dramatiq", "pika", "pydantic", "pydantic-settings", "redis"]
    # The oldest that the README and the dashboard's extra speak of.
    assert (pins["dramatiq"], pins["redis"]) == ("1.18", "4.6")


def test_a_bound_that_was_taken_away_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "setup.cfg").read_text().replace("pika>=1.3", "pika")
    with pytest.raises(SystemExit):
        oldest_pins(text)
    assert "no lower bound for pika" in capsys.readouterr().err
