"""Writes rows into Google Sheets, each job's rows once.

:mod:`.write` writes the rows of jobs: :mod:`.attempt` makes the calls, :mod:`.rows` and
:mod:`.cells` make the cells, :mod:`.columns` finds or adds the columns of a :mod:`.layout`.
:mod:`.client` is the API, :mod:`.errors` maps its errors, :mod:`.service_account` makes tokens of
service accounts.
"""

from .client import BASE_URL, CallKind, HttpTransport, SheetsClient, Transport
from .errors import BadBatch, QuotaExceeded, SheetRefused, TokenRefused
from .layout import Layouts
from .ranges import Range, parse_range
from .rows import Rows, check_rows
from .write import SheetWriter, Written

__all__ = [
    "BASE_URL",
    "BadBatch",
    "CallKind",
    "HttpTransport",
    "Layouts",
    "QuotaExceeded",
    "Range",
    "Rows",
    "SheetRefused",
    "SheetWriter",
    "SheetsClient",
    "TokenRefused",
    "Transport",
    "Written",
    "check_rows",
    "parse_range",
]
