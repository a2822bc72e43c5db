"""A webhook receiver as a customer would write it, with the ``standardwebhooks`` package.

``python -m formrelay.ops.demo.receiver``; what it is told comes on standard input,
see :mod:`.server`: ``{"fd": listening socket, "secret": of the endpoints}``. POST to
``/ok`` works, ``/flaky`` fails twice for each webhook before it works, ``/broken``
always fails. ``GET /stats`` says what came.
"""

from __future__ import annotations

import threading
from collections import Counter

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from .server import Handler, configuration, serve

#: How often ``/flaky`` fails for each webhook.
FLAKY_FAILURES = 2


class Book:
    """What came in, by webhook-id. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._invalid = 0
        self._attempts: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()

    def refuse(self) -> None:
        """Count a request whose signature does not fit."""
        with self._lock:
            self._invalid += 1

    def take(self, path: str, webhook_id: str) -> int:
        """Count a request whose signature fits; the status to answer."""
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
        """Requests by signature; webhooks delivered, delivered again, delivered after a failure."""
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


def receiver(secret: str, book: Book) -> type[Handler]:
    """The handler of the receiver's requests."""
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
                book.refuse()
                self.answer(401)
                return
            self.answer(book.take(self.path, self.headers["webhook-id"]))

        def do_GET(self) -> None:
            if self.path == "/stats":
                self.answer(200, book.stats())
            else:
                self.answer(404)

    return ReceiverHandler


if __name__ == "__main__":
    told = configuration()
    serve(told["fd"], receiver(told["secret"], Book()))
