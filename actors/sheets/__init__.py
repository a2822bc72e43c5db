"""``sheets.update``: rows into Google Sheets, those of many jobs in one call.

- ``schema.py``: the job. ``actor.py``: its actor, which imports the rest at its first job.
- ``write.py``: writes the rows of a batch of jobs.
- ``connections.py``: the access tokens of the people and service accounts that own spreadsheets.
- ``quotas.py``: stays below Google's quotas. ``slots.py``: one call at a time for a spreadsheet.
- ``resources.py``: makes what all jobs of a process share, from the settings.
"""

from __future__ import annotations

from .actor import update_sheet

__all__ = ["update_sheet"]
