"""Numbers of e-mails that bounced, in memory and in Redis."""

from __future__ import annotations

from time import sleep
from typing import Any

import pytest

from formrelay.state import make_bounce_rates
from formrelay.state.bounce_rates import BounceRate, GroupRate
from formrelay.state.redis.bounce_rates import RedisBounceRates
from tests.state.stores import state_of


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def rates(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return make_bounce_rates(None)
    return make_bounce_rates(state_of(request.getfixturevalue("redis_url")))


def test_each_group_has_its_numbers_and_a_bounce_counts_once(rates: Any) -> None:
    rates.note_sent("a", 3)
    rates.note_sent("a", 2)
    rates.note_sent("b", 1)
    assert rates.note_bounced("a", "one") == BounceRate(5, 1)
    assert rates.note_bounced("a", "two") == BounceRate(5, 2)
    assert rates.note_bounced("a", "two") == BounceRate(5, 2)
    assert rates.note_bounced("b", "two") == BounceRate(1, 1)
    assert rates.note_bounced("c", "two") == BounceRate(0, 1)


def test_groups_with_bounces_are_listed_the_newest_bounce_first(
    rates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "formrelay.state.redis" if isinstance(rates, RedisBounceRates) else "formrelay.state"
    monkeypatch.setattr(f"{module}.bounce_rates.MAX_RECENT", 3)
    rates.note_sent("never bounced", 3)
    for group in "abcda":
        rates.note_sent(group, 1)
        rates.note_bounced(group, "x")
        sleep(0.002)  # the store has milliseconds
    assert rates.recent(2) == [
        GroupRate("a", BounceRate(2, 1)),
        GroupRate("d", BounceRate(1, 1)),
    ]
    assert [each.group for each in rates.recent(10)] == ["a", "d", "c"]
    assert rates.recent(0) == []


@pytest.mark.redis
def test_redis_has_no_names_but_of_groups_and_every_key_expires(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    rates = make_bounce_rates(state)
    rates.note_sent("one.example", 3)
    rates.note_bounced("one.example", "ann@one.example")
    keys = sorted(state.client.keys("*"))
    assert len(keys) == 3
    assert all(key.startswith(b"ns:__bounce_rates__.") for key in keys)
    assert all(86_400_000 < state.client.pttl(key) <= 7 * 86_400_000 for key in keys)
    members = [*keys, *state.client.smembers(next(key for key in keys if b"bounced" in key))]
    assert not any(b"example" in each for each in members)
    assert state.client.zrange("ns:__bounce_rates__.recent", 0, -1) == [b"one.example"]


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formrelay.state.bounce_rates._MAX_GROUPS", 2)
    rates = make_bounce_rates(None)
    for group in "abc":
        rates.note_sent(group, 1)
    assert [rates.note_bounced(group, "x").sent for group in "cba"] == [1, 1, 0]
