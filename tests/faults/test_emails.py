"""Workers of e-mails are killed, and the mail server drops connections: nobody is left out.

An e-mail is sent twice only if its outcome was unknown: the connection or the worker was gone
between the end of the e-mail and the server's answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.actors.emails.conftest import MailServer, server
from tests.faults.workers import Workers, kill
from tests.support.brokers import BROKERS_AND_STATE
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

__all__ = ["server"]

COUNT = 120
KILLS = 2


class FlakyServer:
    """Lets a mail server drop connections, and notes when it accepted what.

    Attributes:
        accepted: recipient of each e-mail that it took.
        dropped: recipients whose e-mail it took without an answer.
    """

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.accepted: list[str] = []
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
        self.accepted.append(address)
        if is_first and int(address.partition("@")[0].removeprefix("user-")) % 40 == 7:
            self.dropped.add(address)
            server.transport.abort()
        return "250 2.0.0 taken"

    @property
    def count(self) -> Counter[str]:
        return Counter(list(self.accepted))

    @property
    def once(self) -> int:
        """Number of dropped e-mails that did not come a second time."""
        return sum(self.count[each] == 1 for each in list(self.dropped))


@pytest.fixture
def flaky(server: MailServer) -> FlakyServer:
    return FlakyServer(server)


@pytest.fixture(params=BROKERS_AND_STATE)
def workers(
    request: pytest.FixtureRequest, tmp_path: Path, server: MailServer, redis_url: str
) -> Workers:
    return configured(tmp_path, request.getfixturevalue(request.param), server, redis_url)


def configured(folder: Path, broker: str, server: MailServer, redis_url: str) -> Workers:
    """Workers that send to the server."""
    return Workers(
        folder,
        broker,
        "EMAIL_QUEUE",
        WORKER_CONCURRENCY="8",
        EMAIL_WORKER_CONCURRENCY="4",
        SMTP_MAX_CONNECTIONS="4",  # so that no e-mail waits for another that hangs
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
    with workers.one() as first, workers.one() as second:
        wait_until(lambda: len(flaky.accepted) >= 30, timeout=60)
        kill(first)
        wait_until(lambda: len(flaky.accepted) >= 60, timeout=60)
        kill(second)
        with workers.one():
            # A claim of a killed worker ends after 30 s.
            wait_until(lambda: everybody() <= flaky.count.keys(), timeout=120)
            # Dropped once, and its worker killed at the second time: nobody can know.
            wait_until(lambda: workers.dead_letters().count("may have it") == flaky.once, every=2.0)
    doubles = {address for address, number in flaky.count.items() if number > 1}
    assert flaky.count.keys() == everybody()
    assert max(flaky.count.values()) == 2
    # Four e-mails at a time can be unknown when a worker is killed.
    assert len(doubles - flaky.dropped) <= 4 * KILLS


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


class HangingServer:
    """Lets a mail server hang where its recipient's name says.

    ``before``: before the end of the e-mail. ``at`` and ``twice``: it has taken the e-mail and does
    not answer; ``twice`` also at the second time. ``after``: it answers, but the worker stands
    still and never reads that. ``done``: it answers.

    Attributes:
        taken: the content of each e-mail that it took, by name.
        hangs: names of e-mails at which it hangs, or hung.
        worker: process group of the worker that stands still at ``after``.
    """

    def __init__(self, server: MailServer) -> None:
        self.taken: dict[str, list[bytes]] = {}
        self.hangs: set[str] = set()
        self.worker = 0
        server.handle_RCPT = self.handle_RCPT  # type: ignore[method-assign]
        server.handle_DATA = self.handle_DATA  # type: ignore[method-assign]

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("before") and "before" not in self.hangs:
            await self._hang("before")
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 taken"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        name = envelope.rcpt_tos[0].partition("@")[0]
        times = self.taken.setdefault(name, [])
        times.append(envelope.content)
        if name == "after" and len(times) == 1:
            os.killpg(self.worker, signal.SIGSTOP)
            while not is_stopped(self.worker):  # until then, a thread could read the answer
                await asyncio.sleep(0.01)
            self.hangs.add(name)
        elif len(times) <= {"at": 1, "twice": 2}.get(name, 0):
            await self._hang(name)
        return "250 2.0.0 taken"

    async def _hang(self, name: str) -> None:
        self.hangs.add(name)
        await asyncio.sleep(3600)  # until the connection is closed

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(times) for name, times in self.taken.items()}


def is_stopped(group: int) -> bool:
    """Whether every thread of a process group stands still."""
    states = []
    for file in Path("/proc").glob("[0-9]*/task/*/stat"):
        with suppress(OSError):  # it has ended
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                states.append(state)
    return set(states) == {"T"}


def end_claim(redis_url: str) -> None:
    """End the claim of a killed worker, which would last 30 s."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        claims = {key: client.hget(key, "claim") for key in client.scan_iter(_type="hash")}
        ((key, claim),) = ((key, claim) for key, claim in claims.items() if claim)
        client.hset(key, "claim", claim.split()[0] + " 0")


@pytest.mark.slow
def test_a_worker_killed_around_the_end_of_an_email_repeats_only_what_nobody_can_know(
    workers: Workers, server: MailServer, redis_url: str
) -> None:
    hanging = HangingServer(server)
    names = ["before", "at", "twice", "done"]
    workers.send("emails_to", *(f"{name}@one.example" for name in names))
    with workers.one() as first:
        wait_until(lambda: hanging.hangs == {"before", "at", "twice"}, timeout=60)
        wait_until(lambda: workers.logged_done() == 1)
        hanging.worker = first.pid
        workers.send("emails_to", "after@one.example")
        wait_until(lambda: "after" in hanging.hangs, timeout=60)
        kill(first)
    with workers.one() as second:
        # A claim of a killed worker ends after 30 s.
        expected = {"before": 1, "at": 2, "twice": 2, "done": 1, "after": 2}
        wait_until(lambda: hanging.counts == expected, timeout=120)
        wait_until(lambda: workers.logged_done() == 4)  # all but "twice" are stored
        kill(second)
    end_claim(redis_url)  # of "twice"
    with workers.one():
        wait_until(lambda: "may have it" in workers.dead_letters(), timeout=120, every=2.0)
    assert workers.dead_letters().count("may have it") == 1
    assert hanging.counts == expected
    for times in hanging.taken.values():
        assert len(set(times)) == 1  # the same bytes
        assert message_from_bytes(times[0])["Message-ID"]


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_job_that_is_delivered_again_while_its_worker_lives_is_sent_once(
    kind: str, tmp_path: Path, server: MailServer, redis_url: str, rabbitmq_url: str
) -> None:
    """A lost connection to RabbitMQ, and a worker that stands still too long for Redis."""
    at_dot, going_on = threading.Event(), threading.Event()
    taken = []

    async def handle_DATA(server: Any, session: Any, envelope: Any) -> str:
        taken.append(envelope.rcpt_tos)
        at_dot.set()
        while not going_on.is_set():
            await asyncio.sleep(0.05)
        return "250 2.0.0 taken"

    server.handle_DATA = handle_DATA  # type: ignore[method-assign]
    url = redis_url if kind == "redis" else rabbitmq_url
    with Proxy(urlsplit(url).port or 0) as proxy:
        through = url.replace(f":{urlsplit(url).port}", f":{proxy.port}")
        first, others = (configured(tmp_path, one, server, redis_url) for one in (through, url))
        others.send("emails_to", "ann@one.example")
        with first.one() as worker:
            assert at_dot.wait(60)
            with others.one():
                if kind == "redis":
                    os.killpg(worker.pid, signal.SIGSTOP)
                else:
                    proxy.forget(is_reset=False)
                log = others.log
                told = "another worker sends this e-mail"
                wait_until(lambda: told in log.read_text(), timeout=60)
                if kind == "redis":
                    os.killpg(worker.pid, signal.SIGCONT)
                going_on.set()
                # The other worker has the job until it finds that the e-mail was sent.
                wait_until(lambda: others.logged_done() >= 1)
                wait_until(others.is_done, timeout=60, every=1.0)
    assert taken == [["ann@one.example"]]
    assert others.dead_letters().strip() == "[]"


@pytest.mark.slow
def test_two_workers_share_the_limits(workers: Workers, server: MailServer) -> None:
    workers.limit(EMAIL_LIMIT_PER_DAY="100", EMAIL_AUTORESPONSE_LIMIT="3")  # ten at once
    workers.send("autoresponses", "ann@one.example", "12")
    with workers.one(), workers.one():
        wait_until(workers.is_done, timeout=60, every=1.0)
        assert server.recipients == [["ann@one.example"]] * 3
        workers.send("emails", "30")
        told = "a limit on e-mails of the account is reached"
        wait_until(lambda: told in workers.log.read_text(), timeout=60)
        wait_until(lambda: len(server.accepted) == 10, timeout=60)
    assert len(server.accepted) == 10
