"""scripts/checks.py: what it makes of setup.cfg."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.checks import Step, oldest_pins, run_steps

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_lower_bounds_are_those_of_setup_cfg() -> None:
    pins = dict(pin.split("==") for pin in oldest_pins((ROOT / "setup.cfg").read_text()))
    assert sorted(pins) == ["dramatiq", "pika", "pydantic", "redis"]
    # The oldest that the README and the dashboard's extra speak of.
    assert (pins["dramatiq"], pins["redis"]) == ("1.18", "4.6")


def test_a_bound_that_was_taken_away_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "setup.cfg").read_text().replace("pika>=1.3", "pika")
    with pytest.raises(SystemExit):
        oldest_pins(text)
    assert "no lower bound for pika" in capsys.readouterr().err


@pytest.mark.parametrize("statuses", [(0, 0), (1, 0), (0, 3)])
def test_what_runs_beside_the_others_is_printed_after_them_and_counts(
    statuses: tuple[int, int], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    # The first ends only when the second has begun.
    first = f"until [ -e '{sign}' ]; do sleep 0.01; done; exit {statuses[0]}"
    second = f"touch '{sign}'; echo here; exit {statuses[1]}"
    result = run_steps(
        [Step("first", ["sh", "-c", first])], beside=[Step("second", ["sh", "-c", second])]
    )
    assert result == int(statuses != (0, 0))
    output = capfd.readouterr().out
    assert output.index("== first") < output.index("== second (beside the others)\nhere\n")
    assert ("failed (3)" in output) == (statuses[1] == 3)
