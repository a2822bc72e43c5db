"""A broker calls the hooks of the middleware in its list, however a program changes the list.

With the in-memory broker alone, since all brokers share the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from formrelay.testing import MemoryBroker

Change = Callable[[list[Middleware], Middleware, Middleware], object]


class Named(Middleware):
    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self._heard = name, heard

    def before_enqueue(self, *_: Any) -> None:
        self._heard.append(self.name)


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    yield broker
    broker.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda all, _old, new: all.__setitem__(-1, new), ["new"]),
        (lambda all, _old, new: all.__setitem__(slice(-1, None), [new, new]), ["new", "new"]),
        (lambda all, _old, new: all.append(new), ["old", "new"]),
        (lambda all, _old, new: all.extend([new]), ["old", "new"]),
        (lambda all, _old, new: all.__iadd__([new]), ["old", "new"]),
        (lambda all, _old, new: all.insert(0, new), ["new", "old"]),
        (lambda all, old, _new: all.remove(old), []),
        (lambda all, _old, _new: all.pop(), []),
        (lambda all, _old, _new: all.__delitem__(-1), []),
        (lambda all, _old, new: (all.append(new), all.reverse()), ["new", "old"]),
        (
            lambda all, old, new: (all.append(new), all.sort(key=lambda each: each is old)),
            ["new", "old"],
        ),
        (lambda all, _old, _new: all.clear(), []),
    ],
    ids=[
        *("set", "set a slice", "append", "extend", "+=", "insert", "remove", "pop", "del"),
        *("reverse", "sort", "clear"),
    ],
)
def test_a_change_in_place_is_seen(
    broker: MemoryBroker, change: Change, expected: list[str]
) -> None:
    heard: list[str] = []
    old, new = Named("old", heard), Named("new", heard)
    broker.add_middleware(old)
    actor: Any = dramatiq.actor(print, broker=broker, actor_name="act")
    actor.send()
    assert heard == ["old"]
    heard.clear()
    change(broker.middleware, old, new)
    actor.send()
    assert heard == expected


def test_an_assigned_list_is_seen_and_so_are_its_changes(broker: MemoryBroker) -> None:
    heard: list[str] = []
    actor: Any = dramatiq.actor(print, broker=broker, actor_name="act")
    actor.send()
    broker.middleware = [*broker.middleware, Named("first", heard)]
    actor.send()
    broker.middleware[-1] = Named("second", heard)
    actor.send()
    assert heard == ["first", "second"]


def test_a_replaced_middleware_decides_anew_whether_attempts_run_in_threads(
    broker: MemoryBroker,
) -> None:
    class ByThread(Middleware):
        by_thread = True

    async def act() -> None: ...

    actor: Any = dramatiq.actor(act, broker=broker, in_flight=2)
    broker.add_middleware(Middleware())
    threads = broker.async_runner._attempt_threads
    assert not threads.are_needed(actor)
    broker.middleware[-1] = ByThread()
    assert threads.are_needed(actor)
