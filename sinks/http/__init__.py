"""HTTP requests to webhook endpoints and to the API, sent by libcurl.

Webhooks: :mod:`.egress` sends a request, only to allowed addresses. :mod:`.url` and
:mod:`.headers` check the request, :mod:`.resolver` looks up the host, :mod:`.addresses` lists the
blocked addresses, and :mod:`.transfers` runs all requests in the asyncio event loop.

The API: :mod:`.blocking` sends its requests, one at a time in each thread.

Both use the libcurl handles of :mod:`.curl` and the client certificates of :mod:`.tls`.
"""

from .egress import Egress, Response, raise_for_status
from .headers import RESERVED_HEADERS, check_headers, known_media_type
from .tls import ClientCertificate
from .url import HttpNotAllowed, check_url

__all__ = [
    "RESERVED_HEADERS",
    "ClientCertificate",
    "Egress",
    "HttpNotAllowed",
    "Response",
    "check_headers",
    "check_url",
    "known_media_type",
    "raise_for_status",
]
