"""What is known of each webhook endpoint, so that none harms another.

``gate.py`` decides, in this process's memory and without waiting for anybody, whether a
delivery may begin now. ``records.py`` is what all processes together know: how often
each endpoint failed in a row, and which are disabled (``redis_records.py`` keeps it in
Redis, ``factory.py`` chooses). ``book.py`` carries word between the two once a second.
"""

from __future__ import annotations

from .book import Book
from .factory import make_records
from .gate import EndpointDisabled, Gate
from .records import EndpointRecord, MemoryRecords, Records, Rules
from .state import Limits

__all__ = [
    "Book",
    "EndpointDisabled",
    "EndpointRecord",
    "Gate",
    "Limits",
    "MemoryRecords",
    "Records",
    "Rules",
    "make_records",
]
