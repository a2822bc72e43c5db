"""Values that all requests share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from formrelay.ops.dashboard.cached import Cached
from tests.ops.dashboard.conftest import Site
from tests.support.clock import ManualClock


def test_a_value_is_read_again_only_when_it_has_expired() -> None:
    broker: Any = SimpleNamespace(clock=ManualClock())
    values = iter("abc")
    cached = Cached(lambda _broker: next(values), 10.0)
    assert [cached.get(broker), cached.get(broker)] == ["a", "a"]
    broker.clock.now += 9.9
    assert cached.get(broker) == "a"
    broker.clock.now += 0.1
    assert cached.get(broker) == "b"
    cached.expire()
    assert cached.get(broker) == "c"


def test_a_queue_that_is_declared_later_is_listed_at_once(site: Site) -> None:
    assert "later" not in site.page("/")
    site.broker.declare_queue("later")
    assert 'data-key="later"' in site.page("/")
