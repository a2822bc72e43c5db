"""A worker may end at any moment: nothing that was accepted is lost."""

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


def test_a_purge_takes_nothing_from_a_worker_that_is_killed_after_it(site: Site) -> None:
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


def test_a_terminated_worker_finishes_or_hands_back_and_repeats_nothing(site: Site) -> None:
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


def test_two_workers_share_a_queue_and_repeat_nothing(site: Site) -> None:
    site.start_worker()
    site.start_worker()
    site.send(range(300), milliseconds=1)
    site.wait_for(range(300))
    wait_until(site.is_empty)
    assert set(Counter(site.lines()).values()) == {1}


@pytest.mark.slow
def test_a_message_with_a_key_that_kills_three_workers_dies_too(site: Site, redis_url: str) -> None:
    # Its key is still locked for the dead when it comes to the next one.
    poison = site.broker.actors["poison_once"].send()
    site.send(range(20))
    for _ in range(3):
        worker = site.start_worker()
        assert worker.wait(60) == -signal.SIGKILL
    site.start_worker()
    (letter,) = wait_until(lambda: list(site.broker.dead_letters(site.queue)))
    assert letter.id == poison.message_id
    assert letter.failure is not None
    assert letter.failure.reason is Reason.CRASH_LOOP
    site.wait_for(range(20))
    # Once a second while it waits, and not as fast as it can.
    assert site.lines().count("asked") < 60


@pytest.mark.slow
def test_a_message_that_kills_three_workers_dies_and_its_neighbours_live(site: Site) -> None:
    poison = site.broker.actors["poison"].send()
    site.send(range(20))
    for _ in range(3):
        worker = site.start_worker()
        assert worker.wait(60) == -signal.SIGKILL
    site.start_worker()
    (letter,) = wait_until(lambda: list(site.broker.dead_letters(site.queue)))
    site.wait_for(range(20))
    wait_until(site.is_empty)
    assert letter.id == poison.message_id
    assert letter.failure is not None
    assert letter.failure.reason is Reason.CRASH_LOOP
    assert site.lines().count("poison") == 3


# Redis alone: RabbitMQ knows of every delivery whether the consumer ever saw it.
@pytest.mark.redis
def test_messages_of_an_answer_that_never_came_are_handed_back(
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
            # The next fetch: Redis puts the messages in flight for this worker, and its answer
            # is lost. The worker lives, so recovery will never look at them.
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
