"""Workers are killed, answers of Google are lost, a consent ends: no row is lost, none is twice.

Against the stand-in for Google in tests/support/google. scripts/prove-sheets does the same with
10,000 rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from cryptography.fernet import Fernet

from formrelay.state.redis.claims import RedisClaims
from tests.faults.workers import Workers, kill
from tests.support.brokers import BROKERS_AND_STATE
from tests.support.google import Book, Fate, Google, serving
from tests.support.waiting import wait_until

COUNT = 240
SMALL_BATCHES = {"SHEETS_BATCH_SIZE": "20", "SHEETS_BATCH_WAIT_MS": "100"}


@pytest.fixture
def google() -> Iterator[Google]:
    google = Google()
    google.books["book"] = Book("Answers", editors={"ann"})
    yield google
    assert google.problems == []


@pytest.fixture(params=BROKERS_AND_STATE)
def workers(
    request: pytest.FixtureRequest, tmp_path: Path, google: Google, redis_url: str
) -> Iterator[Workers]:
    with serving(google) as url:
        workers = Workers(
            tmp_path,
            request.getfixturevalue(request.param),
            "SHEETS_QUEUE",
            SHEETS_API_URL=url,
            SHEETS_TOKEN_URL=f"{url}/token",
            SHEETS_OAUTH_CLIENT_ID="client",
            SHEETS_OAUTH_CLIENT_SECRET="secret",
            SHEETS_PROJECT_LIMIT_PER_MINUTE="100000",
            SHEETS_USER_LIMIT_PER_MINUTE="100000",
            SHEETS_RETRY_DELAYS="0,0.2",
            SHEETS_PAUSED_WAIT_SECONDS="1",
            STATE_KEY=Fernet.generate_key().decode(),
            STATE_URL=redis_url,
            **SMALL_BATCHES,
        )
        consent(workers, google)
        yield workers


def consent(workers: Workers, google: Google) -> None:
    """Ann consents, and her tokens are stored as the connection ``ann``."""
    refresh_token = google.tokens.consent("ann")
    access_token = google.tokens.new_access("ann", google.tokens.grants[-1])
    tokens = {"refresh_token": refresh_token, "access_token": access_token, "expires_in": 3600}
    add = ("sheets", "connections", "add", "ann")
    workers.command(*add, stdin=json.dumps(tokens)).check_returncode()


def rows(google: Google) -> list[int]:
    """The numbers of the rows, without the header."""
    return [row[0] for row in google.books["book"].tabs[0].values()[1:]]


def plan(google: Google, kind: str) -> Fate:
    """Plan what happens to the fourth call from now on, so that it is in mid-run."""
    fate = Fate(kind)
    google.fates.extend([Fate("executed"), Fate("executed"), Fate("executed"), fate])
    return fate


def assert_each_row_is_there_once(google: Google) -> None:
    assert Counter(rows(google)) == Counter(range(COUNT))


@pytest.mark.slow
def test_no_row_is_lost_or_written_twice_by_killed_workers(
    workers: Workers, google: Google
) -> None:
    executed = plan(google, "kept")
    workers.send("sheets", str(COUNT))
    with workers.one() as first:
        assert executed.reached.wait(60)
        kill(first)  # after the call, before its jobs are settled
    executed.released.set()
    on_its_way = plan(google, "held")
    with workers.one() as second:
        assert on_its_way.reached.wait(60)
        kill(second)
    on_its_way.released.set()  # executed when its worker is dead
    google.fates.extend([Fate("lost"), Fate("failed_late"), Fate("dropped")])
    assert len(rows(google)) < COUNT
    with workers.one():
        wait_until(lambda: len(rows(google)) >= COUNT, timeout=120)
        wait_until(workers.is_done, timeout=60, every=1.0)
    assert_each_row_is_there_once(google)


@pytest.mark.slow
def test_rows_are_found_by_their_keys_if_their_record_is_lost_with_the_worker(
    workers: Workers, google: Google, redis_url: str
) -> None:
    executed = plan(google, "kept")
    workers.send("sheets", str(COUNT))
    with workers.one() as worker:
        assert executed.reached.wait(60)
        kill(worker)
    executed.released.set()
    with redis.Redis.from_url(redis_url) as client:
        lost = client.delete(*client.keys(f"*{RedisClaims.prefix}*"))
    assert lost
    with workers.one():
        wait_until(lambda: len(rows(google)) >= COUNT, timeout=120)
        wait_until(workers.is_done, timeout=60, every=1.0)
    assert_each_row_is_there_once(google)


@pytest.mark.slow
def test_a_consent_that_ends_in_mid_run_loses_no_row(workers: Workers, google: Google) -> None:
    held = plan(google, "held")
    workers.send("sheets", str(COUNT))
    with workers.one():
        assert held.reached.wait(60)
        google.tokens.revoke("ann")
        held.released.set()
        listed = ("sheets", "connections")
        wait_until(lambda: workers.command(*listed).returncode == 1, timeout=60, every=1.0)
        assert "revoked the access" in workers.command(*listed, "--json").stdout
        assert len(rows(google)) < COUNT
        consent(workers, google)
        wait_until(lambda: len(rows(google)) >= COUNT, timeout=120)
        wait_until(workers.is_done, timeout=60, every=1.0)
    assert_each_row_is_there_once(google)
