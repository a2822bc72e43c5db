"""A webhook receiver as a customer would write it, with the ``standardwebhooks`` package.

``python -m formrelay.ops.demo.receiver`` reads its configuration from standard input, see
:mod:`.server`: ``{"fd": listening socket, "secret": signing secret of the endpoints}``. POST to
``/ok`` succeeds, ``/flaky`` fails twice for each webhook and then succeeds, ``/broken`` always
fails. ``GET /stats`` returns the counts.
"""

from __future__ import annotations

import threading
from collections import Counter

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from .server import Handler, configuration, serve

#: Number of failures of ``/flaky`` for each webhook.
FLAKY_FAILURES = 2


class ReceivedWebhooks:
    """Counts the received webhooks by webhook-id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._invalid = 0
        self._attempts: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()

    def refuse(self) -> None:
        """Count a request with an invalid signature."""
        with self._lock:
            self._invalid += 1

    def accept(self, path: str, webhook_id: str) -> int:
        """Count a request with a valid signature and return the status to answer."""
        with self._lock:
            self._attempts[webhook_id] += 1
            failing = path == "/broken" or (
                path == "/flaky" and self._attempts[webhook_id] <= FLAKY_FAILURES
            )
            if failing:
                return 500
            self._delivered[webhook_id] += 1
            return 204

    def stats(self) -> dict[str, int]:
        """Return the counts of requests and of delivered, duplicate and retried webhooks."""
        with self._lock:
            valid = self._attempts.total()
            return {
                "requests": valid + self._invalid,
                "valid": valid,
                "invalid": self._invalid,
                "delivered": len(self._delivered),
                "duplicates": self._delivered.total() - len(self._delivered),
                "retried": sum(self._attempts[id] > times for id, times in self._delivered.items()),
            }


def receiver(secret: str, received: ReceivedWebhooks) -> type[Handler]:
    """Make the request handler."""
    checker = Webhook(secret)

    class ReceiverHandler(Handler):
        def do_POST(self) -> None:
            body = self.read()
            if self.path not in ("/ok", "/flaky", "/broken"):
                self.answer(404)
                return
            try:
                checker.verify(body, dict(self.headers.items()))
            except (WebhookVerificationError, ValueError):
                received.refuse()
                self.answer(401)
                return
            self.answer(received.accept(self.path, self.headers["webhook-id"]))

        def do_GET(self) -> None:
            if self.path == "/stats":
                self.answer(200, received.stats())
            else:
                self.answer(404)

    return ReceiverHandler


if __name__ == "__main__":
    config = configuration()
    serve(config["fd"], receiver(config["secret"], ReceivedWebhooks()))
