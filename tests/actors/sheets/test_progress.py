"""The progress of jobs: how many of their rows are written."""

from __future__ import annotations

from typing import Any

from formrelay.brokers import State
from formrelay.ops.progress import progress_json
from tests.actors.sheets.conftest import Sheets
from tests.support.waiting import wait_until


def text(sheets: Sheets, state: State) -> Any:
    (entry,) = sheets.site.broker.inspector.browse("sheets", state, limit=10).entries
    found = progress_json(entry)
    assert found is not None
    return found["text"]


def test_a_job_tells_its_rows(sheets: Sheets) -> None:
    sheets.send(values=[["a"], ["b"]], id="1")
    assert text(sheets, State.WAITING) == "0 of 2 rows written, 2 waiting"
    sheets.work_off()
    sheets.send(values=[["a"], ["b"]], id="1")
    assert text(sheets, State.WAITING) == "2 of 2 rows written"


def test_a_batch_tells_the_rows_of_its_jobs(sheets: Sheets) -> None:
    sheets.google.tokens.revoke("ann")
    for name in ("1", "2", "3"):  # over half of a batch of 50: they stay together
        sheets.send(values=[["a"]] * 15, id=name)
    sheets.site.start("sheets")
    wait_until(lambda: sheets.site.broker.counts("sheets").in_flight == 0)
    wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
    sheets.site.stop()
    assert text(sheets, State.SCHEDULED) == "0 of 45 rows written, 45 waiting"
