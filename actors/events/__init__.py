"""``event.record``: analytics events into ClickHouse.

``actor.py`` has the event and its actor, ``routing.py`` chooses the table of an event, and
``insert.py`` inserts the rows of many messages as one block.
"""

from __future__ import annotations

from .actor import record_events

__all__ = ["record_events"]
