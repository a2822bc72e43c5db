"""scripts/checks.py: what runs beside the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.checks import Step, run_steps


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
