"""Workers are killed or stopped at any moment: no accepted message is lost."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from formrelay.core.failure import Reason
from tests.faults.conftest import Site
from tests.support.harness import Harness
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


def test_a_killed_worker_loses_nothing(site: Site) -> None:
    site.send(range(200), milliseconds=5)
    victim = site.start_worker()
    wait_until(lambda: len(site.lines()) >= 40)
    victim.kill()
    site.start_worker()
    site.wait_for(range(200))
    wait_until(site.is_empty)
    assert list(site.broker.dead_letters(site.queue)) == []


def test_messages_in_flight_survive_a_purge_and_a_kill(site: Site) -> None:
    site.send(range(1), milliseconds=1_000)
    victim = site.start_worker()
    wait_until(lambda: site.broker.counts(site.queue).waiting == 0)
    site.send(range(1, 2), delay=60_000)
    site.broker.inspector.purge(site.queue)
    victim.kill()
    site.start_worker()
    site.wait_for(range(1))
    wait_until(site.is_empty)
    assert site.lines() == ["0"]


def test_a_terminated_worker_finishes_or_requeues_its_jobs_and_repeats_none(site: Site) -> None:
    site.send(range(200), milliseconds=5)
    first = site.start_worker()
    wait_until(lambda: len(site.lines()) >= 40)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert len(site.lines()) < 200
    site.start_worker()
    site.wait_for(range(200))
    wait_until(site.is_empty)
    assert set(Counter(site.lines()).values()) == {1}


def test_two_workers_share_a_queue_and_repeat_no_job(site: Site) -> None:
    site.start_worker()
    site.start_worker()
    site.send(range(300), milliseconds=1)
    site.wait_for(range(300))
    wait_until(site.is_empty)
    assert set(Counter(site.lines()).values()) == {1}


def _check_three_workers_are_killed(site: Site, poison: str) -> None:
    """Start workers until the fourth dead-letters the message that killed the others."""
    for _ in range(3):
        assert site.start_worker().wait(60) == -signal.SIGKILL
    site.start_worker()
    (letter,) = wait_until(lambda: list(site.broker.dead_letters(site.queue)))
    assert letter.id == poison
    assert letter.failure is not None
    assert letter.failure.reason is Reason.CRASH_LOOP


@pytest.mark.slow
def test_a_message_with_an_idempotency_key_that_kills_three_workers_is_dead_lettered(
    site: Site, redis_url: str
) -> None:
    # The next worker gets it while its key is still locked by the killed worker.
    poison = site.broker.actors["poison_once"].send()
    site.send(range(20))
    _check_three_workers_are_killed(site, poison.message_id)
    site.wait_for(range(20))
    # It is retried once a second, not in a busy loop.
    assert site.lines().count("asked") < 60


@pytest.mark.slow
def test_a_message_that_kills_three_workers_is_dead_lettered_and_others_run(site: Site) -> None:
    poison = site.broker.actors["poison"].send()
    site.send(range(20))
    _check_three_workers_are_killed(site, poison.message_id)
    site.wait_for(range(20))
    wait_until(site.is_empty)
    assert site.lines().count("poison") == 3


# Redis only: RabbitMQ redelivers messages whose delivery the consumer never received.
@pytest.mark.redis
def test_messages_of_a_lost_reply_are_recovered(
    redis_url: str, unique: str, tmp_path: Path
) -> None:
    with Proxy(urlsplit(redis_url).port or 6379) as proxy:
        behind = Site(f"redis://127.0.0.1:{proxy.port}/0", unique, tmp_path / "done")
        direct = Site(redis_url, unique, tmp_path / "done")
        harness = Harness(behind.broker, unique)
        try:
            harness.start()
            direct.send(range(5))
            direct.wait_for(range(5))
            # The next fetch: Redis marks the messages as in flight for this worker, but its reply
            # is lost. The worker is alive, so the recovery of dead workers does not find them.
            proxy.lose_reply_to(b"EVALSHA")
            direct.send(range(5, 10))
            assert proxy.lost.wait(60)
            direct.wait_for(range(10))
            wait_until(direct.is_empty)
            assert direct.lines().count("9") == 1
        finally:
            harness.stop()
            behind.close()
            direct.close()
