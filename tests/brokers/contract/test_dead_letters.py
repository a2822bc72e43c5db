"""Dead letters are found, replayed and deleted by id or by filter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from formrelay.brokers import DeadFilter, Inspector, RelayBroker, State
from formrelay.brokers.envelope import encode
from formrelay.brokers.inspection import Extent, UnknownCursor
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkPermanent
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy
from formrelay.testing import MemoryBroker
from tests.support.browsing import browse_all, ids
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ONCE = RetryPolicy(max_attempts=1)

#: Filters that only differ in their comparison are tested on one broker.
everywhere_but_rabbitmq = pytest.mark.parametrize(
    "broker", [pytest.param("redis", marks=pytest.mark.redis), "embedded", "memory"], indirect=True
)


@pytest.fixture
def inspector(harness: Harness) -> Inspector:
    return harness.broker.inspector


# -- dead letters by filter, on every broker ------------------------------------------------


def refuse(**_: object) -> None:
    raise SinkPermanent


def fail(**_: object) -> None:
    raise ValueError


def buried(harness: Harness) -> dict[str, str]:
    """Four dead letters of two actors and two forms: name -> id."""
    one = harness.actor(refuse, actor_name="refuse")
    two = harness.actor(fail, actor_name="fail", policy=ONCE)
    sent = {
        "refused": one.send(payload={"formId": "f1"}),
        "failed": two.send(payload={"body": {"formId": "f2"}}),
        "failed too": two.send(payload={}, metadata={"formId": "f1"}),
        "unknown": one.message(payload=[{"formId": "f3"}]).copy(actor_name="nobody"),
    }
    harness.broker.enqueue(sent["unknown"])
    harness.start()
    wait_until(lambda: len(harness.dead()) == len(sent))
    harness.stop()
    return {name: message.message_id for name, message in sent.items()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"refused", "failed", "failed too", "unknown"}),
        ({"actor": "fail"}, {"failed", "failed too"}),
        ({"error": "SinkPermanent"}, {"refused"}),
        ({"error": "formrelay.core.errors.SinkPermanent"}, {"refused"}),
        ({"error": "Permanent"}, set()),
        ({"error": "never ACCEPT"}, {"refused"}),  # in the text
        ({"error": ""}, set()),
        ({"error": "ValueError"}, {"failed", "failed too"}),
        ({"reason": Reason.UNKNOWN_ACTOR}, {"unknown"}),
        ({"form_id": "f1"}, {"refused", "failed too"}),
        ({"form_id": "f1", "actor": "fail"}, {"failed too"}),
        ({"form_id": "f2"}, {"failed"}),
        ({"form_id": "f3"}, {"unknown"}),
        ({"since": time.time() + 3600}, set()),
        ({"until": time.time() - 3600}, set()),
        ({"since": 0, "until": time.time() + 3600, "actor": "refuse"}, {"refused"}),
        ({"queue": "another"}, set()),
    ],
    ids=str,
)
@everywhere_but_rabbitmq
def test_dead_letters_are_found_by_each_filter(
    harness: Harness, inspector: Inspector, fields: dict[str, Any], expected: set[str]
) -> None:
    names = {id: name for name, id in buried(harness).items()}
    which = DeadFilter(**fields)
    assert {names[letter.id] for letter in inspector.dead_letters(which)} == expected
    assert inspector.replay(which, dry_run=True) == len(expected)
    assert inspector.delete_dead(which, dry_run=True) == len(expected)
    assert len(harness.dead()) == 4


def test_a_filter_replays_and_deletes_only_matching_dead_letters(
    harness: Harness, inspector: Inspector
) -> None:
    before = time.time()
    names = buried(harness)
    assert inspector.replay(DeadFilter(actor="fail", until=before - 1)) == 0
    which = DeadFilter(queue=harness.queue, actor="fail", since=before - 1)
    assert inspector.replay(which, dry_run=True) == 2
    assert len(harness.dead()) == 4
    assert inspector.replay(which) == 2
    assert {letter.id for letter in harness.dead()} == {names["refused"], names["unknown"]}
    assert harness.broker.counts(harness.queue).waiting == 2
    assert inspector.delete_dead(DeadFilter(reason=Reason.UNKNOWN_ACTOR)) == 1
    assert [letter.id for letter in harness.dead()] == [names["refused"]]


def test_replay_and_delete_by_id_ignore_unknown_ids(harness: Harness, inspector: Inspector) -> None:
    names = buried(harness)
    given = [names["failed"], names["refused"], names["failed"], "none such"]
    assert inspector.replay(given, dry_run=True) == 2
    assert inspector.replay(given) == 2
    assert inspector.replay(given) == 0
    assert inspector.delete_dead([names["unknown"]], queue="another") == 0
    assert inspector.delete_dead([names["unknown"]]) == 1
    assert [letter.id for letter in harness.dead()] == [names["failed too"]]


def test_a_unique_prefix_finds_an_id(harness: Harness, inspector: Inspector) -> None:
    actor = harness.actor(refuse)
    for id in ("ab-1", "ab-2", "ab", "b*1", "b[1"):
        harness.broker.enqueue(actor.message().copy(message_id=id))
    harness.start()
    wait_until(lambda: len(harness.dead()) == 5)
    assert inspector.dead_ids("ab-2") == [(harness.queue, "ab-2")]
    assert inspector.dead_ids("ab") == [(harness.queue, "ab")]  # an exact id is not a prefix
    assert sorted(id for _, id in inspector.dead_ids("a")) == ["ab", "ab-1", "ab-2"]
    assert len(inspector.dead_ids("a", limit=2)) == 2
    assert inspector.dead_ids("b*") == [(harness.queue, "b*1")]  # not a pattern
    assert inspector.dead_ids("c") == []
    extent = Extent(100)
    found = inspector.ids("a", harness.queue, extent=extent)
    assert sorted(id for _, id in found) == ["ab", "ab-1", "ab-2"]
    assert (extent.looked_at, extent.is_complete) == (5, True)
    assert inspector.ids("ab-2", extent=Extent(100)) == [(harness.queue, "ab-2")]
    if not isinstance(harness.broker, MemoryBroker):  # which looks at all
        extent = Extent(0)
        assert inspector.ids("a", extent=extent) == []
        assert not extent.is_complete
    assert inspector.dead_letter(harness.queue, "ab-9") is None


def test_dead_letters_are_browsed_and_found_by_id(harness: Harness, inspector: Inspector) -> None:
    names = buried(harness)
    pages = browse_all(harness, State.DEAD, limit=3)
    assert sorted(ids(pages)) == sorted(names.values())
    assert all(abs(time.time() - (entry.died or 0)) < 30 for entry in pages)
    assert ids(pages) == [letter.id for letter in harness.dead()]
    found = inspector.find(names["refused"])
    assert found is not None
    assert (found.state, found.queue) == (State.DEAD, harness.queue)
    assert found.message.kwargs == {"payload": {"formId": "f1"}}
    with pytest.raises(UnknownCursor):
        inspector.browse(harness.queue, State.DEAD, cursor="w,1,2,x")


# -- many -----------------------------------------------------------------------------------


def test_the_newest_dead_letters_come_first(harness: Harness, inspector: Inspector) -> None:
    assert inspector.newest_dead(harness.queue) == []
    actor = harness.actor(refuse, actor_name="refuse")
    harness.start()
    sent = []
    for count in range(1, 5):  # one by one, since the order within a millisecond is undefined
        sent.append(actor.send().message_id)
        wait_until(lambda: harness.broker.counts(harness.queue).dead == count)  # noqa: B023
    harness.stop()
    found = inspector.newest_dead(harness.queue, limit=3)
    assert ids(found) == sent[:0:-1]
    assert all(letter.state is State.DEAD and letter.died for letter in found)
    assert all(letter.failure and letter.failure.attempt == 1 for letter in found)
    assert len(inspector.newest_dead(harness.queue)) == 4
    assert inspector.newest_dead(harness.queue, limit=0) == []


def test_recent_dead_letters_of_all_queues_have_pages(
    harness: Harness, inspector: Inspector
) -> None:
    queues, sent = (harness.queue, harness.queue + "b"), []
    actors: list[Any] = [
        dramatiq.actor(refuse, broker=harness.broker, queue_name=name, actor_name=name)
        for name in queues
    ]
    harness.start()
    for count in range(5):
        sent.append(actors[count % 2].send().message_id)
        wait_until(lambda: sum(each.dead for each in inspector.counts_of(queues)) == count + 1)  # noqa: B023
    harness.stop()
    expected, cursor, found = sent[::-1], None, []
    for _ in expected:
        extent = Extent(at_most=100)
        letter = next(inspector.recent_dead(DeadFilter(), extent=extent, cursor=cursor))
        assert extent.last is not None
        found, cursor = [*found, letter.id], extent.last.cursor
        inspector.delete_dead([letter.id])
    assert found == expected
    assert list(inspector.recent_dead(DeadFilter(), cursor=cursor)) == []
    with pytest.raises(UnknownCursor):
        next(inspector.recent_dead(DeadFilter(), cursor="d,1"))


def test_recent_dead_letters_are_bounded(harness: Harness, inspector: Inspector) -> None:
    names = buried(harness)
    extent = Extent(at_most=3)
    found = list(inspector.recent_dead(DeadFilter(harness.queue, actor="fail"), extent=extent))
    assert {letter.id for letter in found} <= {names["failed"], names["failed too"]}
    assert (extent.looked_at, extent.is_complete) == (3, False)
    extent = Extent(at_most=4)
    assert len(list(inspector.recent_dead(DeadFilter(), extent=extent))) == 4
    assert (extent.looked_at, extent.is_complete) == (4, True)


def test_each_dead_letter_is_replayed_once_even_if_it_fails_again_meanwhile(
    harness: Harness, inspector: Inspector, broker: RelayBroker
) -> None:
    ran: list[int] = []

    def refuse_again(number: int) -> None:
        ran.append(number)
        raise SinkPermanent

    actor = harness.actor(refuse_again)
    many = 600  # chunks of 500, on RabbitMQ of 200
    bury(harness, [actor.message(number) for number in range(many)])
    harness.start()
    assert inspector.replay(DeadFilter(queue=harness.queue)) == many
    wait_until(lambda: len(ran) >= many and broker.counts(harness.queue).dead == many)
    wait_until(harness.is_empty)
    assert sorted(ran) == [*range(many)]
    before = calls(broker)
    harness.stop()
    assert inspector.replay([letter.id for letter in harness.dead()] * 2) == 100
    assert inspector.delete_dead(DeadFilter(actor="refuse_again")) == many - 100
    assert calls(broker) - before < 40
    wait_until(lambda: broker.counts(harness.queue).dead == 0)
    if isinstance(broker, RedisBroker):
        assert broker.client.hlen(broker.keys.dead_bodies(harness.queue)) == 0


def bury(harness: Harness, messages: Sequence[Message[Any]]) -> None:
    """Store messages as dead letters, without running them."""
    harness.bury([(message.message_id, encode(message)) for message in messages])


def calls(broker: RelayBroker) -> int:
    """Number of scripts that Redis has run."""
    if not isinstance(broker, RedisBroker):
        return 0
    return int(broker.client.info("commandstats")["cmdstat_evalsha"]["calls"])


@everywhere_but_rabbitmq
def test_a_replayed_message_keeps_its_priority(harness: Harness, inspector: Inspector) -> None:
    actor = harness.actor(refuse)
    urgent = actor.send_with_options(broker_priority=9)
    harness.start()
    wait_until(harness.dead)
    harness.stop()
    plain = actor.send()
    assert inspector.replay([urgent.message_id]) == 1
    assert ids(browse_all(harness, State.WAITING)) == [urgent.message_id, plain.message_id]


@everywhere_but_rabbitmq
def test_undecodable_bytes_keep_their_priority_too(harness: Harness, inspector: Inspector) -> None:
    actor = harness.actor(refuse)
    harness.inject(b'{"actor_name": 5, "options": {"broker_priority": 9}}')
    harness.start()
    (letter,) = wait_until(harness.dead)
    harness.stop()
    plain = actor.send()
    assert inspector.replay([letter.id]) == 1
    assert ids(browse_all(harness, State.WAITING)) == [letter.id, plain.message_id]


def test_concurrent_replays_replay_each_dead_letter_once(
    harness: Harness, inspector: Inspector
) -> None:
    actor = harness.actor(refuse)
    many = 1_100  # several chunks
    bury(harness, [actor.message(number=number) for number in range(many)])
    with ThreadPoolExecutor(2) as two:
        counts = list(two.map(inspector.replay, [DeadFilter(queue=harness.queue)] * 2))
    assert sum(counts) == many
    wait_until(lambda: harness.broker.counts(harness.queue).waiting == many)
