"""Dramatiq's Results store a result when a job has ended, not when it is deferred."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from dramatiq.middleware import Middleware
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import StubBackend

from formrelay.core.errors import NotNow
from tests.support.harness import Harness
from tests.support.waiting import wait_until


class Looking(Middleware):
    """Looks for the result of a job whenever a message is settled."""

    def __init__(self, backend: StubBackend) -> None:
        self.found: list[Any] = []
        self._backend = backend

    def after_ack(self, broker: Any, message: Any) -> None:
        try:
            self.found.append(message.get_result(backend=self._backend))
        except ResultMissing:
            self.found.append("missing")


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "async"])
def test_a_deferred_job_has_no_result_until_it_is_done(harness: Harness, is_async: bool) -> None:
    backend, errors = StubBackend(), [NotNow(after=timedelta(milliseconds=100))]
    looking = Looking(backend)
    harness.broker.add_middleware(Results(backend=backend))
    harness.broker.add_middleware(looking)

    def act() -> str:
        if errors:
            raise errors.pop()
        return "done"

    async def act_async() -> str:
        return act()

    if is_async:
        harness.actor(act_async, store_results=True, in_flight=2).send()
    else:
        harness.actor(act, store_results=True).send()
    harness.start()
    wait_until(lambda: len(looking.found) == 2)
    harness.stop()
    assert looking.found == ["missing", "done"]
