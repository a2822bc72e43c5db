"""4,000 rows over HTTP by several workers, whose calls fail in every way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from formrelay.sinks.sheets import HttpTransport, Layouts, SheetsClient, SheetWriter
from formrelay.state import StateRedis
from formrelay.state.redis.claims import RedisClaims
from formrelay.state.redis.connection import connect_redis
from tests.sinks.sheets.making import answers
from tests.support.google import Book, Fate, Google, serving

ROWS, IN_CALL = 4_000, 200


@pytest.fixture
def url(google: Google) -> Iterator[str]:
    with serving(google) as url:
        yield url


@pytest.mark.slow
@pytest.mark.redis
def test_4_000_rows_are_written_once(google: Google, book: Book, url: str, redis_url: str) -> None:
    chance = random.Random(7)
    token = google.tokens.new_access("ann")
    redis = connect_redis(redis_url, timeout=timedelta(seconds=5))

    def write(keys: list[str]) -> list[str]:
        """Write as a new worker; returns the keys of the jobs that failed."""
        client = SheetsClient(lambda _: token, HttpTransport(), base_url=url)
        writer = SheetWriter(client, RedisClaims(StateRedis(redis, "here")), Layouts())
        failures = writer.write("book", [answers(key, key=key) for key in keys]).failures
        # A worker that is killed before it settles its jobs gets them again.
        again = [index for index in range(len(keys)) if index in failures or chance.random() < 0.05]
        return [keys[index] for index in again]

    waiting = [f"job-{number}" for number in range(ROWS)]
    rounds = 0
    with ThreadPoolExecutor(3) as pool:
        while waiting:
            rounds += 1
            kinds = ["lost", "dropped", "late", "failed", "failed_late"] if rounds < 6 else []
            google.fates.extend(Fate(kind) for kind in kinds)
            chance.shuffle(waiting)  # other jobs share a call each time
            parts = [waiting[at : at + IN_CALL] for at in range(0, len(waiting), IN_CALL)]
            failed = pool.map(write, parts)
            if google.late:
                google.arrive()
            waiting = [key for part in failed for key in part]
    while google.late:
        google.arrive()
    rows = Counter(row[0] for row in book.tabs[0].values()[1:])
    assert len(rows) == ROWS
    assert set(rows.values()) == {1}
