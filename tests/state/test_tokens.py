"""OAuth tokens: refreshed once, stored encrypted; in memory and in a real Redis."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.core.errors import NotNow, SinkTransient, SinkUnavailable
from formrelay.state.connections import (
    ConnectionPaused,
    ConnectionUnknown,
    GrantRefused,
    Refreshed,
    connection_id,
)
from tests.state.stores import state_of
from tests.state.token_setup import HOUR, START, Refreshing, Setup
from tests.support.waiting import wait_until


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def setup(request: pytest.FixtureRequest) -> Setup:
    if request.param == "memory":
        return Setup(None)
    return Setup(state_of(request.getfixturevalue("redis_url")))


def refused(_: str) -> Refreshed:
    raise GrantRefused("the person revoked the access", code=400)


def test_a_token_is_refreshed_five_minutes_before_its_end(setup: Setup) -> None:
    refresh = Refreshing()
    assert setup.tokens.adopt("c", "R0")
    for minutes, expected in ((0, "A1"), (54, "A1"), (56, "A2"), (100, "A2"), (200, "A3")):
        setup.clock.now = START + 60 * minutes
        assert setup.tokens.access_token("c", refresh) == expected
    assert refresh.asked == ["R0"] * 3


def test_a_token_that_lasts_for_minutes_is_not_refreshed_at_each_use(setup: Setup) -> None:
    refresh = Refreshing(lasts=timedelta(minutes=4))
    setup.tokens.adopt("c", "R0")
    for seconds, expected in ((0, "A1"), (179, "A1"), (181, "A2")):
        setup.clock.now = START + seconds
        assert setup.tokens.access_token("c", refresh) == expected


def test_an_adopted_access_token_is_used_until_it_ends(setup: Setup) -> None:
    refresh = Refreshing()
    ends = datetime.fromtimestamp(START, UTC) + HOUR
    assert setup.tokens.adopt("c", "R0", access_token="A0", expires_at=ends)
    assert not setup.tokens.adopt("c", "R-old", access_token="A-old", expires_at=ends)
    assert setup.tokens.access_token("c", refresh) == "A0"
    setup.clock.now += 3500
    assert setup.tokens.access_token("c", refresh) == "A1"
    assert refresh.asked == ["R0"]


def test_a_refused_access_token_is_refreshed_once(setup: Setup) -> None:
    refresh = Refreshing()
    setup.tokens.adopt("c", "R0")
    first = setup.tokens.access_token("c", refresh)
    setup.clock.now += 60
    assert setup.tokens.access_token("c", refresh, refused=first) == "A2"
    assert setup.tokens.access_token("c", refresh, refused=first) == "A2"  # a late 401
    # A new token that is refused too lacks rights: no other refresh helps.
    assert setup.tokens.access_token("c", refresh, refused="A2") == "A2"
    assert len(refresh.asked) == 2


def test_a_rotated_refresh_token_is_used_next(setup: Setup) -> None:
    refresh = Refreshing(rotates=True)
    setup.tokens.adopt("c", "R0")
    for hours in range(4):
        setup.clock.now = START + 3600 * hours
        setup.make().access_token("c", refresh)
    assert refresh.asked == ["R0", "R1", "R2", "R3"]


def test_a_failed_refresh_changes_nothing_and_a_valid_token_is_used(setup: Setup) -> None:
    refresh = Refreshing()
    setup.tokens.adopt("c", "R0")
    setup.tokens.access_token("c", refresh)
    refresh.error = SinkUnavailable("no network")
    setup.clock.now = START + 57 * 60
    assert setup.tokens.access_token("c", refresh) == "A1"
    with pytest.raises(SinkUnavailable, match="no network"):
        setup.tokens.access_token("c", refresh, refused="A1")
    setup.clock.now = START + 3600
    with pytest.raises(SinkUnavailable, match="no network"):
        setup.tokens.access_token("c", refresh)
    refresh.error = None
    assert setup.tokens.access_token("c", refresh) == "A5"


def test_a_refresh_without_an_answer_is_named_as_the_likely_cause_of_a_refusal(
    setup: Setup,
) -> None:
    refresh = Refreshing()
    setup.tokens.adopt("c", "R0")
    for error in (SinkTransient("no answer"), RuntimeError("killed")):
        refresh.error = error
        with pytest.raises(type(error)):
            setup.tokens.access_token("c", refresh)
        assert setup.store.load("c").refreshing_at == START
    with pytest.raises(ConnectionPaused, match="a refresh at 2027-01-15T08:00:00"):
        setup.tokens.access_token("c", refused)
    setup.tokens.consent("c", "R1")
    refresh.error = SinkUnavailable("nothing was sent")
    with pytest.raises(SinkUnavailable):
        setup.tokens.access_token("c", refresh)
    with pytest.raises(ConnectionPaused, match="is paused: the person"):
        setup.tokens.access_token("c", refused)


def test_a_refreshed_token_is_kept_in_hand_while_the_store_is_away(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, failures = setup.store.replace, 3

    def fail_first(stored: Any) -> bool:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise BrokerUnavailable("away")
        return bool(write(stored))

    monkeypatch.setattr(setup.store, "replace", fail_first)
    setup.tokens.adopt("c", "R0")
    assert setup.tokens.access_token("c", Refreshing(rotates=True)) == "A1"
    after = Refreshing()
    setup.clock.now += 3600
    setup.tokens.access_token("c", after)
    assert after.asked == ["R1"]
    failures = 10**6
    monkeypatch.setattr("formrelay.state.tokens._HOLD_ON", 0.2)
    setup.clock.now += 3600
    assert setup.tokens.access_token("c", lambda _: Refreshed("A9", HOUR, "R9")) == "A9"
    assert "could not store a new refresh token" in caplog.text
    with pytest.raises(BrokerUnavailable):
        setup.tokens.access_token("c", Refreshing())


def test_a_refused_grant_pauses_the_connection_with_its_cause(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.tokens.adopt("c", "R0")
    setup.tokens.adopt("other", "R0")
    with caplog.at_level(logging.INFO, "formrelay.workers"):
        for _ in range(3):
            with pytest.raises(ConnectionPaused, match="connection c is paused: the person") as got:
                setup.make().access_token("c", refused)
    assert isinstance(got.value, NotNow)
    assert got.value.after >= timedelta(minutes=1)
    assert (got.value.connection, got.value.cause) == ("c", "the person revoked the access")
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]  # one alert
    assert (line.__dict__["connection"], line.__dict__["code"]) == ("c", 400)
    found = {one.id: one for one in setup.tokens.connections()}
    assert found["c"].cause == "the person revoked the access"
    assert found["c"].paused_at == datetime.fromtimestamp(START, UTC)
    assert not found["other"].is_paused
    assert setup.tokens.access_token("other", Refreshing()) == "A1"


def test_a_new_consent_resumes(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")
    with pytest.raises(ConnectionPaused):
        setup.tokens.access_token("c", refused)
    assert not setup.tokens.adopt("c", "R0")  # a job with the old tokens does not resume it
    with pytest.raises(ConnectionPaused):
        setup.tokens.access_token("c", Refreshing())
    setup.tokens.consent("c", "R-new")
    refresh = Refreshing()
    assert setup.tokens.access_token("c", refresh) == "A1"
    assert refresh.asked == ["R-new"]
    setup.tokens.consent("new", "R1")
    assert len(setup.tokens.connections()) == 2


def test_a_refusal_of_a_token_that_was_replaced_meanwhile_pauses_nothing(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")
    asked = []

    def refresh(refresh_token: str) -> Refreshed:
        asked.append(refresh_token)
        if refresh_token == "R0":
            setup.make().consent("c", "R-new")
            raise GrantRefused("an old token")
        return Refreshed("A1", HOUR)

    assert setup.tokens.access_token("c", refresh) == "A1"
    assert asked == ["R0", "R-new"]
    assert not setup.tokens.connections()[0].is_paused


def test_the_tokens_of_a_new_consent_are_not_overwritten_by_an_older_refresh(
    setup: Setup,
) -> None:
    setup.tokens.adopt("c", "R0")

    def refresh(_: str) -> Refreshed:
        setup.make().consent("c", "R-new")
        return Refreshed("A-old", HOUR, "R-old")

    setup.tokens.access_token("c", refresh)
    after = Refreshing()
    setup.tokens.access_token("c", after)
    assert after.asked == ["R-new"]


def test_a_worker_that_stood_still_with_the_only_valid_tokens_stores_them(setup: Setup) -> None:
    tokens = setup.make(lock=timedelta(milliseconds=1))
    setup.tokens.adopt("c", "R0")

    def refresh(_: str) -> Refreshed:
        # Its lock has ended: another worker is refused, because the refresh token was used.
        wait_until(lambda: _is_paused(setup, lambda: tokens.access_token("c", refused)))
        return Refreshed("A1", HOUR, "R1")

    assert tokens.access_token("c", refresh) == "A1"
    assert not setup.tokens.connections()[0].is_paused
    after = Refreshing()
    assert setup.tokens.access_token("c", after) == "A1"
    setup.clock.now += 3600
    setup.tokens.access_token("c", after)
    assert after.asked == ["R1"]


def _is_paused(setup: Setup, call: Callable[[], object]) -> bool:
    try:
        call()
    except ConnectionPaused:
        return True
    except NotNow:
        return False
    return False


def test_an_operators_pause_holds_until_it_is_ended(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")

    def refresh(_: str) -> Refreshed:
        assert setup.tokens.pause("c", "maintenance")
        return Refreshed("A1", HOUR, "R1")

    setup.tokens.access_token("c", refresh)
    with pytest.raises(ConnectionPaused, match="maintenance"):
        setup.tokens.access_token("c", Refreshing())
    assert not setup.tokens.pause("c", "again")
    assert setup.tokens.resume("c")
    assert not setup.tokens.resume("c")
    assert setup.tokens.access_token("c", Refreshing()) == "A1"  # it was stored all the same
    assert not setup.tokens.pause("unknown", "why")


def test_a_likely_cause_depends_on_time(setup: Setup) -> None:
    def guess(age: timedelta, idle: timedelta) -> str | None:
        return f"{age.days} days, {idle.days} idle" if age.days else None

    def refuse(_: str) -> Refreshed:
        raise GrantRefused("some causes", guess=guess)

    setup.tokens.adopt("young", "R0")
    with pytest.raises(ConnectionPaused, match="some causes"):
        setup.tokens.access_token("young", refuse)
    setup.tokens.adopt("c", "R0")
    setup.clock.now += 3 * 86_400
    setup.tokens.access_token("c", Refreshing())
    setup.clock.now += 4 * 86_400
    with pytest.raises(ConnectionPaused, match="7 days, 4 idle"):
        setup.tokens.access_token("c", refuse)


def test_unknown_and_removed_connections_are_an_error(setup: Setup) -> None:
    with pytest.raises(ConnectionUnknown, match="a connection with the id c, found none"):
        setup.tokens.access_token("c", Refreshing())
    setup.tokens.adopt("c", "R0")
    assert setup.tokens.remove("c")
    assert not setup.tokens.remove("c")
    assert setup.tokens.connections() == []
    with pytest.raises(ConnectionUnknown):
        setup.tokens.access_token("c", Refreshing())
    for wrong in ("", "a\nb", "x" * 201):
        with pytest.raises(ValueError, match="1 to 200 printable"):
            setup.tokens.adopt(wrong, "R0")


def test_a_connection_that_is_removed_during_a_refresh_stays_removed(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")

    def refresh(_: str) -> Refreshed:
        setup.tokens.remove("c")
        setup.clock.now += 1
        return Refreshed("A1", HOUR, "R1")

    assert setup.tokens.access_token("c", refresh) == "A1"
    assert setup.tokens.connections() == []


def test_a_connection_that_was_removed_and_stored_again_keeps_its_new_tokens(setup: Setup) -> None:
    setup.use_clock()
    setup.tokens.adopt("c", "R0")

    def refresh(_: str) -> Refreshed:
        setup.tokens.remove("c")
        setup.wait(1)
        setup.tokens.adopt("c", "R-new")
        return Refreshed("A1", HOUR, "R1")

    setup.tokens.access_token("c", refresh)
    after = Refreshing()
    setup.tokens.access_token("c", after)
    assert after.asked == ["R-new"]


def test_other_workers_use_a_valid_token_or_wait_and_then_defer(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")
    waiting = setup.make(wait=timedelta(milliseconds=300))
    entered, may_answer = threading.Event(), threading.Event()
    counted = Refreshing()

    def slow(refresh_token: str) -> Refreshed:
        entered.set()
        assert may_answer.wait(60)
        return counted(refresh_token)

    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(setup.tokens.access_token, "c", slow)
            assert entered.wait(60)
            with pytest.raises(NotNow, match="another worker is refreshing"):
                waiting.access_token("c", counted)
        finally:
            may_answer.set()
        assert first.result(60) == "A1"
        # Near its end it can still be used while it is being refreshed.
        entered.clear()
        may_answer.clear()
        setup.clock.now += 3400
        try:
            second = pool.submit(setup.tokens.access_token, "c", slow)
            assert entered.wait(60)
            assert waiting.access_token("c", counted) == "A1"
        finally:
            may_answer.set()
        assert second.result(60) == "A2"
    assert len(counted.asked) == 2


def test_of_many_threads_one_refreshes_and_all_get_its_token(setup: Setup) -> None:
    setup.tokens.adopt("c", "R0")
    refresh = Refreshing(rotates=True)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: setup.make().access_token("c", refresh), range(16)))
    assert found == ["A1"] * 16
    assert refresh.asked == ["R0"]


def test_a_worker_that_gets_the_lock_after_a_refresh_does_not_refresh_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.tokens.adopt("c", "R0")
    refresh, begin = Refreshing(), setup.locks.begin

    def after_another(*arguments: Any) -> object:
        monkeypatch.setattr(setup.locks, "begin", begin)
        assert setup.make().access_token("c", refresh) == "A1"
        return begin(*arguments)

    monkeypatch.setattr(setup.locks, "begin", after_another)
    assert setup.tokens.access_token("c", refresh) == "A1"
    assert refresh.asked == ["R0"]


def test_a_connection_is_forgotten_when_it_is_not_used(setup: Setup) -> None:
    if setup.state is None:
        setup.tokens.adopt("c", "R0", keep=HOUR)
        setup.clock.now += 3599
        setup.tokens.access_token("c", Refreshing())
        setup.clock.now += 3599
        assert len(setup.tokens.connections()) == 1
        setup.clock.now += 1
    else:
        setup.tokens.adopt("c", "R0", keep=timedelta(seconds=1))
        (key,) = setup.state.client.keys("*__tokens__.*")
        assert 0 < setup.state.client.pttl(key) <= 1000
        wait_until(lambda: not setup.state.client.exists(key))
    assert setup.tokens.connections() == []
    if setup.state is not None:
        assert setup.state.client.keys("*__tokens__*") == []


def test_secrets_are_never_shown(setup: Setup) -> None:
    refresh = Refreshing(rotates=True)
    setup.tokens.adopt("c", "R0-hunter2", access_token="A0-hunter2")
    stored = setup.store.load("c")
    shown = [
        repr(stored), repr(setup.tokens.connections()), repr(refresh("x")), str(refresh("x")),
        repr(setup.tokens._open(stored)), connection_id("google", "R0-hunter2"),
    ]  # fmt: skip
    assert not any(secret in text for text in shown for secret in ("hunter2", "'A1'", "'R1'"))
    assert connection_id("google", "R0") != connection_id("google", "R1")
