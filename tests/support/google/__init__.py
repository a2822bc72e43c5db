"""A stand-in for Google Sheets and Google's token server, for tests.

Google cannot be reached from tests. The stand-in is written from Google's public reference, and
checks every request and answer against ``sheets.v4.json`` of google-api-python-client. What it
shows is that our requests are as Google describes them, and that rows are written once if Google
does what it describes; it is no proof of what Google does.
"""

from tests.support.google.api import Fate, Google, NoAnswer
from tests.support.google.book import Book, Tab
from tests.support.google.direct import DirectTransport
from tests.support.google.quotas import Quotas
from tests.support.google.server import serving

__all__ = ["Book", "DirectTransport", "Fate", "Google", "NoAnswer", "Quotas", "Tab", "serving"]
