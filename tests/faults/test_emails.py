"""Workers of e-mails are killed, and the mail server drops connections: nobody is left out.

An e-mail is sent twice only if its outcome was unknown: the connection or the worker was gone
between the end of the e-mail and the server's answer.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.actors.emails.conftest import MailServer, server
from tests.faults.workers import Workers, kill
from tests.support.waiting import wait_until

__all__ = ["server"]

COUNT = 240
#: An e-mail that was accepted this long before a kill may not be stored as sent.
JUST_BEFORE = 3.0


class FlakyServer:
    """Lets a mail server drop connections, and notes when it accepted what.

    Attributes:
        accepted: recipient and time of each e-mail that it took.
        dropped: recipients whose e-mail it took without an answer.
    """

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.accepted: list[tuple[str, float]] = []
        self.dropped: set[str] = set()
        self._refused: Counter[str] = Counter()
        server.handle_RCPT = self.handle_RCPT  # type: ignore[method-assign]
        server.handle_DATA = self.handle_DATA  # type: ignore[method-assign]

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        number = int(address.partition("@")[0].removeprefix("user-"))
        if not self._refused[address]:
            self._refused[address] += 1
            if number % 10 == 3:
                return "451 4.7.1 greylisted"
            if number % 10 == 5:
                server.transport.abort()
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 taken"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        (address,) = envelope.rcpt_tos
        is_first = address not in self.count
        self.accepted.append((address, monotonic()))
        if is_first and int(address.partition("@")[0].removeprefix("user-")) % 40 == 7:
            self.dropped.add(address)
            server.transport.abort()
        return "250 2.0.0 taken"

    @property
    def count(self) -> Counter[str]:
        return Counter(address for address, _ in list(self.accepted))


@pytest.fixture
def flaky(server: MailServer) -> FlakyServer:
    return FlakyServer(server)


@pytest.fixture(
    params=[
        pytest.param("redis_url", marks=pytest.mark.redis),
        pytest.param("rabbitmq_url", marks=[pytest.mark.rabbitmq, pytest.mark.redis]),
    ],
    ids=["redis", "rabbitmq"],
)
def workers(
    request: pytest.FixtureRequest, tmp_path: Path, server: MailServer, redis_url: str
) -> Workers:
    return Workers(
        tmp_path,
        request.getfixturevalue(request.param),
        "EMAIL_QUEUE",
        WORKER_CONCURRENCY="8",
        EMAIL_WORKER_CONCURRENCY="4",
        EMAIL_RETRY_DELAYS="0,0.2",
        EMAIL_RETRY_JITTER="0",
        EMAIL_FROM="forms@sender.example",
        SMTP_URL=f"smtp+none://127.0.0.1:{server.port}",
        STATE_URL=redis_url,
    )


def everybody() -> set[str]:
    return {f"user-{number}@one.example" for number in range(COUNT)}


@pytest.mark.slow
def test_killed_workers_leave_nobody_out_and_repeat_only_unknown_outcomes(
    workers: Workers, flaky: FlakyServer
) -> None:
    workers.send("emails", str(COUNT))
    kills = []
    with workers.one() as first, workers.one() as second:
        wait_until(lambda: len(flaky.accepted) >= 30, timeout=60)
        kills.append(monotonic())
        kill(first)
        wait_until(lambda: len(flaky.accepted) >= 90, timeout=60)
        kills.append(monotonic())
        kill(second)
        with workers.one():
            # A claim of a killed worker ends after 30 s.
            wait_until(lambda: everybody() <= flaky.count.keys(), timeout=120)
            wait_until(lambda: all(flaky.count[each] == 2 for each in flaky.dropped), timeout=60)
    first_time = {}
    for address, at in flaky.accepted:
        first_time.setdefault(address, at)
    near = {
        address
        for address, at in first_time.items()
        if any(0 <= end - at < JUST_BEFORE for end in kills)
    }
    doubles = {address for address, number in flaky.count.items() if number > 1}
    assert flaky.count.keys() == everybody()
    assert max(flaky.count.values()) == 2
    assert doubles <= flaky.dropped | near
    # Four e-mails at a time can be unknown when a worker is killed.
    assert len(doubles - flaky.dropped) <= 4 * len(kills)


@pytest.mark.slow
def test_a_stopped_worker_repeats_no_email(workers: Workers, flaky: FlakyServer) -> None:
    workers.send("emails", str(COUNT))
    with workers.one():
        wait_until(lambda: len(flaky.accepted) >= 30, timeout=60)
    assert len(flaky.accepted) < COUNT
    with workers.one():
        wait_until(lambda: everybody() <= flaky.count.keys(), timeout=120)
        wait_until(lambda: all(flaky.count[each] == 2 for each in flaky.dropped), timeout=60)
    doubles = {address for address, number in flaky.count.items() if number > 1}
    assert doubles == flaky.dropped
