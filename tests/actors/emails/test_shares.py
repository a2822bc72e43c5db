"""The number of SMTP connections over all workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from formrelay.actors.emails import resources
from formrelay.actors.emails.shares import ConnectionShare, make_shares
from formrelay.core.errors import NotNow
from formrelay.middleware.lock_renewal import LockRenewal
from formrelay.sinks.smtp.pool import Pool
from formrelay.state import make_leases
from formrelay.state.leases import Leases
from tests.actors.conftest import Site
from tests.actors.emails.conftest import Mailing, MailServer
from tests.middleware.lines import Lines
from tests.sinks.smtp.accounts import ANN, BEN, CAT, MESSAGE, SENDER, account
from tests.sinks.smtp.scripted import Scripted, Talk, scripted
from tests.support.waiting import wait_until

KEY = "email:connections:account"


@pytest.fixture
def leases(site: Site) -> Leases:
    return make_leases(site.broker.state)


@pytest.fixture
def renewal() -> Iterator[LockRenewal]:
    found = LockRenewal()
    yield found
    found.stop()


def workers(server: Scripted, leases: Leases, renewal: LockRenewal, number: int) -> list[Pool]:
    """The pools of two workers, which may have three connections each."""
    shares = make_shares(leases, "account", number, renewal)
    options = {"max_connections": 3, "idle": timedelta(seconds=0.2)}
    return [Pool(account(server.port, **options), make_share=shares) for _ in range(2)]


def test_workers_never_have_more_connections_than_are_allowed(
    leases: Leases, renewal: LockRenewal
) -> None:
    with scripted(Scripted()) as server:
        pools = workers(server, leases, renewal, 2)
        with ThreadPoolExecutor(12) as threads:
            sent = [threads.submit(pools[n % 2].send, SENDER, [ANN], MESSAGE) for n in range(60)]
            assert all(one.result(60)[0].code == 250 for one in sent)
        assert server.most_open == 2
        for pool in pools:
            pool.close()
        assert leases.held(KEY) == 0


def test_a_thread_uses_a_connection_of_its_process_that_becomes_idle(
    leases: Leases, renewal: LockRenewal
) -> None:
    at_dot, go_on = threading.Event(), threading.Event()

    def wait(server: Scripted, talk: Talk) -> bytes:
        at_dot.set()
        assert go_on.wait(30)
        return b"250 2.0.0 queued\r\n"

    with scripted(Scripted(answers={"dot": [wait]})) as server:
        pool, _ = workers(server, leases, renewal, 1)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(pool.send, SENDER, [ANN], MESSAGE)
            assert at_dot.wait(30)
            second = threads.submit(pool.send, SENDER, [BEN], MESSAGE)
            go_on.set()
            assert [one.result(30)[0].code for one in (first, second)] == [250, 250]
        assert len(server.talks) == 1
        pool.close()


def test_the_share_of_a_worker_that_was_killed_ends_by_itself(
    leases: Leases, renewal: LockRenewal
) -> None:
    assert leases.hold(KEY, "killed", 1, timedelta(seconds=1))
    with scripted(Scripted()) as server:
        pool, _ = workers(server, leases, renewal, 1)
        assert pool.send(SENDER, [ANN], MESSAGE)[0].code == 250
        pool.close()


def test_a_connection_whose_share_was_lost_is_not_used_again(
    leases: Leases, renewal: LockRenewal
) -> None:
    with scripted(Scripted()) as server:
        pool = Pool(account(server.port), make_share=make_shares(leases, "account", 1, renewal))
        pool.send(SENDER, [ANN], MESSAGE)
        # The process stood still for so long that another worker took its place.
        (share,) = list(renewal._due)
        assert isinstance(share, ConnectionShare)
        leases.let_go(KEY, share.owner)
        leases.hold(KEY, "other", 1, timedelta(seconds=1))
        assert not share.renew(share.key, share.owner, share.lock)
        assert pool.send(SENDER, [BEN], MESSAGE)[0].code == 250  # when the other has ended
        assert len(server.talks) == 2
        pool.close()


def test_an_email_for_which_there_is_no_connection_uses_no_attempt(
    mailing: Mailing,
    server: MailServer,
    leases: Leases,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "_MAX_WAIT", timedelta(seconds=0.1))
    mailing.use(max_connections=1)
    key = f"email:connections:127.0.0.1:{server.port} None"
    assert leases.hold(key, "other", 1, timedelta(seconds=60))
    mailing.send()
    mailing.site.start("emails")
    wait_until(lambda: bool(lines.attempts()))
    mailing.site.stop()
    (line, *_) = lines.attempts()
    assert (line["outcome"], line["attempt"]) == ("defer", 1)
    assert "SMTP connections of all workers" in line["errorMessage"]
    assert server.accepted == []
    leases.let_go(key, "other")
    mailing.work_off()
    assert len(server.accepted) == 1
    assert leases.held(key) == 0  # a worker that stops gives its shares back


def test_replies_are_kept_if_a_later_transaction_is_not_possible() -> None:
    def refuse(recipients: list[str]) -> None:
        if list(recipients) != [ANN]:
            raise NotNow("the store is away", after=timedelta(seconds=1))

    ehlo = b"250-here\r\n250 LIMITS RCPTMAX=1\r\n"
    with scripted(Scripted(always={"EHLO": ehlo})) as server:
        pool = Pool(account(server.port))
        replies = pool.send(SENDER, [ANN, BEN, CAT], MESSAGE, before_dot=refuse)  # type: ignore[arg-type]
        pool.close()
    assert [reply.kind for reply in replies] == ["accepted", "deferred", "deferred"]
    assert [recipients for recipients, _ in server.messages] == [[ANN]]
