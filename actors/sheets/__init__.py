"""``sheets.update``: writes rows into Google Sheets, the rows of many jobs in one call.

- ``schema.py``: the job. ``actor.py``: its actor, which imports the rest at its first job.
- ``write.py``: writes the rows of a batch of jobs.
- ``connections.py``: the access tokens of the people and service accounts that own spreadsheets.
- ``quotas.py``: keeps calls below Google's quotas.
- ``slots.py``: allows one batch at a time for a spreadsheet.
- ``resources.py``: makes what all jobs of a process share, from the settings.
"""

from __future__ import annotations

from .actor import update_sheet

__all__ = ["update_sheet"]
