"""Tokens in Redis: encrypted, and refreshed by one of several processes at a time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.core.errors import ConfigError, SinkUnready
from formrelay.sinks.oauth import OAuthClient, Provider
from formrelay.state import make_tokens
from formrelay.state.connections import Refreshed, TokensUnreadable
from formrelay.state.idempotency import MemoryIdempotencyStore
from tests.state.stores import state_of
from tests.state.token_setup import HOUR, ONE, OTHER, Refreshing, Setup
from tests.support.clock import ManualClock
from tests.support.command import clean_environment, start_python
from tests.support.servers import RedisServer
from tests.support.token_endpoint import TokenEndpoint, token_endpoint


@pytest.fixture
def shared(redis_url: str) -> Setup:
    return Setup(state_of(redis_url))


def test_redis_has_no_secret_in_the_clear(shared: Setup) -> None:
    shared.tokens.adopt("c", "R0-hunter2", access_token="A0-hunter2", scope="mail")
    shared.tokens.access_token("c", lambda _: Refreshed("A1-hunter2", HOUR, "R1-hunter2"))
    client = shared.state.client
    for key in client.keys("*"):
        assert b"hunter2" not in client.dump(key)
        if client.type(key) == b"hash":
            assert not any(b"hunter2" in value for value in client.hvals(key))


def test_keys_rotate(shared: Setup) -> None:
    shared.tokens.adopt("c", "R0")
    shared.tokens.adopt("d", "R1")
    both = shared.make(f"{OTHER},{ONE}")
    refresh = Refreshing()
    both.access_token("c", refresh)
    assert both.reencrypt() == 2
    only = shared.make(OTHER)
    only.access_token("d", refresh)
    assert refresh.asked == ["R0", "R1"]
    assert only.access_token("c", refresh) == "A1"


def test_a_wrong_key_is_one_clear_line(shared: Setup) -> None:
    shared.tokens.adopt("c", "R0")
    wrong = shared.make(OTHER)
    for call in (lambda: wrong.access_token("c", Refreshing()), wrong.reencrypt):
        with pytest.raises(TokensUnreadable, match="expected STATE_KEY to have the key") as info:
            call()
        assert isinstance(info.value, SinkUnready)
        assert "\n" not in str(info.value)
        assert ONE not in str(info.value)
    assert wrong.connections()[0].id == "c"
    assert (wrong.unreadable(), shared.tokens.unreadable()) == (["c"], [])
    wrong.consent("c", "R-new")
    assert wrong.access_token("c", Refreshing()) == "A1"


def test_the_secrets_of_another_connection_are_not_accepted(shared: Setup) -> None:
    shared.tokens.adopt("mine", "R0")
    shared.tokens.adopt("yours", "R1")
    client, store = shared.state.client, shared.store
    client.hset(store._key(_digest("mine")), "sealed", store.load("yours").sealed)
    with pytest.raises(TokensUnreadable):
        shared.tokens.access_token("mine", Refreshing())


def _digest(connection: str) -> str:
    from formrelay.state.digests import digest

    return digest(connection)


def test_redis_needs_a_key_and_memory_does_not(redis_url: str) -> None:
    locks = MemoryIdempotencyStore()
    with pytest.raises(ConfigError, match=r"expected STATE_KEY, .* got none: set STATE_KEY"):
        make_tokens(state_of(redis_url), lambda: None, locks)
    assert make_tokens(None, lambda: None, locks).adopt("c", "R0")
    assert make_tokens(state_of(redis_url), lambda: f"{ONE},{OTHER}", locks).adopt("c", "R0")


def test_facts_of_a_newer_version_are_ignored(shared: Setup) -> None:
    shared.tokens.adopt("c", "R0")
    key = shared.store._key(_digest("c"))
    facts = shared.state.client.hget(key, "facts")
    shared.state.client.hset(key, "facts", facts[:-1] + b',"colour":"blue"}')
    assert shared.tokens.connections()[0].provider == "google"


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    setup = Setup(state_of(redis_server.url))
    tokens = setup.tokens
    tokens.adopt("c", "R0")
    redis_server.kill()
    for call in (
        lambda: tokens.adopt("c", "R0"),
        lambda: tokens.consent("c", "R0"),
        lambda: tokens.access_token("c", Refreshing()),
        lambda: tokens.pause("c", "why"),
        lambda: tokens.resume("c"),
        lambda: tokens.remove("c"),
        lambda: tokens.connections(),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


# -- several processes and a real token endpoint -------------------------------------------


@pytest.fixture
def rotating() -> Iterator[TokenEndpoint]:
    with token_endpoint(rotates=True, lasts=1) as endpoint:
        yield endpoint


def start(setup: Setup, redis_url: str, url: str, log: Path, how_long: float, lock: float) -> Any:
    module = Path(__file__).with_name("refresher.py")
    arguments = (str(module), redis_url, ONE, url, "c", str(how_long), str(lock))
    return start_python(*arguments, cwd=log.parent, env=clean_environment(), log=log)


def test_processes_refresh_a_rotating_token_one_after_the_other(
    redis_url: str, rotating: TokenEndpoint, tmp_path: Path
) -> None:
    setup = Setup(state_of(redis_url))
    setup.tokens.adopt("c", "R0")
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    programs = [start(setup, redis_url, rotating.url, log, 4, 30) for log in logs]
    statuses = [program.wait(120) for program in programs]
    assert statuses == [0, 0, 0], "".join(log.read_text() for log in logs)
    used = [form["refresh_token"] for form in rotating.forms]
    assert len(used) == len(set(used))  # each was used once
    assert len(used) >= 3
    assert not setup.tokens.connections()[0].is_paused


@pytest.mark.parametrize("stopped_by", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_during_a_refresh_does_not_stop_the_others(
    redis_url: str, tmp_path: Path, stopped_by: signal.Signals
) -> None:
    setup = Setup(state_of(redis_url))
    setup.tokens.adopt("c", "R0")
    with token_endpoint() as endpoint:
        endpoint.may_answer.clear()
        holder = start(setup, redis_url, endpoint.url, tmp_path / "log", 0, 2)
        try:
            assert endpoint.entered.wait(60)
            holder.send_signal(stopped_by)
            endpoint.may_answer.set()
            client = OAuthClient(Provider("google", endpoint.url), "client", lambda: "secret")
            tokens = setup.make(lock=timedelta(seconds=2), wait=timedelta(seconds=60))
            tokens._clock = ManualClock(datetime.now(UTC).timestamp())
            assert tokens.access_token("c", client.refresh) == "A2"
            if stopped_by is signal.SIGSTOP:  # its older answer changes nothing
                holder.send_signal(signal.SIGCONT)
                assert holder.wait(60) == 0
            assert tokens.access_token("c", client.refresh) == "A2"
        finally:
            holder.kill()
            holder.wait(60)
