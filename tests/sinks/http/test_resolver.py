"""Names whose servers hang delay no other name.

The tests replace getaddrinfo of the system, because no name server here can be made to hang.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import SinkUnavailable
from formrelay.sinks.http.resolver import Resolver
from tests.sinks.http.test_egress import egress
from tests.sinks.wire import answer, serving
from tests.support.loop import run


class Names:
    """``hang…`` hangs until the test ends, ``none…`` is unknown, ``both…`` has two addresses."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.over = threading.Event()

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked[host] += 1
        if host.startswith("hang"):
            self.over.wait(20)
        if host.startswith("none"):
            raise socket.gaierror(-2, "Name or service not known")
        found = ["::1", "127.0.0.1"] if host.startswith("both") else ["127.0.0.1"]
        return [(2, 1, 6, "", (one, 0)) for one in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr("socket.getaddrinfo", names.getaddrinfo)
    yield names
    names.over.set()


def look_up(resolver: Resolver, host: str) -> tuple[str, ...]:
    async def wait() -> tuple[str, ...]:
        return await resolver.resolve(host)

    return run(wait())


def test_fifty_hanging_names_delay_no_other_and_time_out(names: Names) -> None:
    with serving(answer(200)) as wire:
        sender = egress(timeout=timedelta(seconds=3))
        errors: list[Exception] = []

        def send(number: int) -> None:
            try:
                sender.send("POST", f"http://hang{number}.test:{wire.port}/", {}, b"")
            except SinkUnavailable as error:
                errors.append(error)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        assert sender.send("POST", f"http://fine.test:{wire.port}/", {}, b"").status == 200
        assert not errors
        for thread in threads:
            thread.join(60)
        assert len(errors) == 50
        assert "DNS: 'hang" in str(errors[0])
        assert wire.accepted == 1


def test_a_name_is_looked_up_once_at_a_time_and_cached(names: Names) -> None:
    resolver = Resolver(timeout=timedelta(seconds=5))
    for _ in range(3):
        assert look_up(resolver, "both.test") == ("::1", "127.0.0.1")
    assert names.asked["both.test"] == 1
    slow = Resolver(timeout=timedelta(milliseconds=200))
    for _ in range(3):
        with pytest.raises(SinkUnavailable, match="in time"):
            look_up(slow, "hang.test")
    assert names.asked["hang.test"] == 1  # the look-up still runs


def test_an_unknown_name_is_not_cached(names: Names) -> None:
    resolver = Resolver(timeout=timedelta(seconds=5))
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match="was not found"):
            look_up(resolver, "none.test")
    assert names.asked["none.test"] == 2


def test_every_address_of_a_name_is_tried(names: Names) -> None:
    with serving(answer(200)) as wire:  # listens on 127.0.0.1 only
        assert egress().send("POST", f"http://both.test:{wire.port}/", {}, b"").status == 200
