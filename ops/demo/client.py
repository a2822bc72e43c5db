"""HTTP client for the demo's API and webhook receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlencode

from .errors import DemoFailed

#: The servers are local, so a longer wait means that a server hangs. The first request also waits
#: for the server's start, which takes 10 s on a busy machine.
_TIMEOUT_SECONDS = 60.0


class Client:
    """A keep-alive connection to a local server. Not thread-safe."""

    def __init__(self, name: str, port: int, token: str | None = None) -> None:
        self._name = name
        self.url = f"http://127.0.0.1:{port}"
        # Not urllib, which would use a proxy from the environment.
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str) -> Any:
        """Send a GET request and return the JSON response."""
        return self._request("GET", path)

    def put(self, path: str, body: Any) -> Any:
        """Send ``body`` as JSON in a PUT request and return the JSON response."""
        return self._request("PUT", path, json.dumps(body).encode())

    def close(self) -> None:
        self._connection.close()

    def _request(self, method: str, path: str, body: bytes | None = None) -> Any:
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            why = type(error).__name__
            raise DemoFailed(f"expected the {self._name} to answer, got {why}") from None
        if response.status != 200:
            raise DemoFailed(f"expected 200 from the {self._name}, got {response.status}")
        return json.loads(data)


def set_webhook(api: Client, form_id: str, url: str, secret: str) -> None:
    """Set the webhook endpoint of a form in the API."""
    endpoint = {"id": form_id, "url": url, "secret": secret, "method": "POST", "headers": {}}
    api.put(f"/api/v1/forms/{form_id}/webhooks/", [endpoint])


def count_submissions(api: Client, form_id: str) -> int:
    """Return the number of submissions of a form in the API."""
    count = api.get("/api/v1/submissions/?" + urlencode({"formId": form_id}))["count"]
    assert isinstance(count, int)
    return count


def submissions(api: Client, form_id: str) -> Iterator[dict[str, Any]]:
    """Yield every submission of a form from the API."""
    path: str | None = "/api/v1/submissions/?" + urlencode({"formId": form_id})
    while path:
        page = api.get(path)
        yield from page["results"]
        path = page["next"]
