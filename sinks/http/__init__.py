"""HTTP to the outside world: libcurl for webhooks and for the API.

Webhooks: :mod:`.url` and :mod:`.headers` check what a caller asks for, :mod:`.egress` sends it to
allowed addresses only (:mod:`.addresses`, :mod:`.resolver`), :mod:`.transfers` drives all
webhook requests in the asyncio event loop. The API: :mod:`.adapter` sends requests of the package
``requests``. Both use the libcurl handles of :mod:`.curl`.
"""

from .egress import Egress, Response, classify_status
from .headers import RESERVED_HEADERS, check_headers, known_media_type
from .url import check_url

__all__ = [
    "RESERVED_HEADERS",
    "Egress",
    "Response",
    "check_headers",
    "check_url",
    "classify_status",
    "known_media_type",
]
