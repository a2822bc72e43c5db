"""Events through a worker into a real ClickHouse: counted once, and independent of each other."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.actors import resources
from formrelay.actors.events import actor as events
from formrelay.actors.events import insert, routing
from formrelay.core.errors import InvalidJob, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import Exponential
from tests.actors.conftest import Site
from tests.middleware.lines import Lines
from tests.support.clock import ManualClock
from tests.support.servers import ClickHouseServer
from tests.support.waiting import wait_until

SECRET = "SECRET-VALUE"
AT = "2026-01-31T09:30:00Z"

same_site = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def event(**changes: Any) -> dict[str, Any]:
    base = {"eventId": str(uuid4()), "type": "form.viewed", "formId": "form-1", "occurredAt": AT}
    return {**base, **changes}


def plain(payload: Any, **more: Any) -> bytes:
    """A plain job, as publishers in other languages write it."""
    return orjson.dumps({"type": "event.record", "payload": payload, **more})


# -- without ClickHouse --------------------------------------------------------------------


def test_an_event_becomes_a_row(site: Site) -> None:
    found = events.event_row(
        events.Event(
            event_id=UUID(int=7),
            type="form.viewed",
            form_id="form-1",
            session_id="session-1",
            occurred_at=datetime(2026, 1, 31, 10, 30, tzinfo=timezone(timedelta(hours=1))),
            properties={"näme": [1, None, {"a": 1.5}]},
        )
    )
    row = dict(zip(routing.COLUMNS, found, strict=True))
    assert row == {
        "event_id": UUID(int=7),
        "type": "form.viewed",
        "form_id": "form-1",
        "submission_id": "",
        "session_id": "session-1",
        "occurred_at": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        "properties": '{"näme":[1,null,{"a":1.5}]}',
    }
    assert row["occurred_at"].tzinfo is UTC


#: Every time that the schema accepts, in every time zone.
TIMES = st.datetimes(
    min_value=datetime(1970, 1, 2),
    max_value=datetime(2105, 12, 30),
    timezones=st.integers(-1439, 1439).map(lambda n: timezone(timedelta(minutes=n))),
)


@same_site
@given(TIMES)
def test_every_valid_time_becomes_a_row(site: Site, at: datetime) -> None:
    event = events.Event(type="t", form_id="f", occurred_at=at)
    row = events.event_row(event)
    assert row[routing.COLUMNS.index("occurred_at")] == at


def rows(site: Site, *ids: int) -> list[tuple[Any, ...]]:
    make = events.Event
    made = (make(event_id=UUID(int=n), type="t", form_id="f", occurred_at=AT) for n in ids)
    return [events.event_row(one) for one in made]


@same_site
@given(st.lists(st.integers(0, 2**64), unique=True, min_size=1, max_size=8), st.data())
def test_only_the_same_rows_in_the_same_order_have_the_same_token(
    site: Site, ids: list[int], data: st.DataObject
) -> None:
    token = partial(insert.token, routing.Router(()).tables["events"])
    assert token(rows(site, *ids)) == token(rows(site, *ids))
    other = data.draw(st.permutations(ids))
    assert (token(rows(site, *ids)) == token(rows(site, *other))) is (ids == other)
    assert token(rows(site, *ids)) != token(rows(site, *ids, 2**65))


def test_the_token_does_not_change_between_versions(site: Site) -> None:
    # A batch frozen by one version may be inserted again by the next version.
    expected = "27d5afe15883f93730a6f30762e800c9dc0352f64cbf96e7a1af10a9c9c5aa26"
    table = routing.Router(()).tables["events"]
    assert insert.token(table, rows(site, 0)) == expected


# -- into ClickHouse -----------------------------------------------------------------------


@pytest.fixture
def client(site: Site, clickhouse_url: str, clickhouse_database: str) -> Any:
    return site.use_clickhouse(clickhouse_url, clickhouse_database)


def counted(client: Any) -> tuple[int, int, int]:
    """Number of events, counted with FINAL, in the view, and by distinct id."""
    ((final,),) = client.query("SELECT count() FROM events FINAL")
    ((once,),) = client.query("SELECT count() FROM events_once")
    ((distinct,),) = client.query("SELECT uniqExact(event_id) FROM events")
    return final, once, distinct


def thousand() -> list[Any]:
    """1,000 events in 200 payloads: single events and lists of several sizes."""
    events = [event(properties={"n": n}) for n in range(1000)]
    payloads: list[Any] = list(events[:150])
    rest = events[150:]
    sizes = [17] * 50
    for size in sizes:
        payloads.append(rest[:size])
        rest = rest[size:]
    assert rest == []
    return payloads


@pytest.mark.parametrize("times", [1, 3])
def test_a_thousand_events_sent_once_or_thrice_are_counted_once(
    site: Site, client: Any, lines: Lines, times: int
) -> None:
    payloads = thousand()
    for _ in range(times):
        site.actors.enqueue_many(site.actors.record_events, ({"payload": p} for p in payloads))
    site.work_off("events")
    assert counted(client) == (1000, 1000, 1000)
    numbers = client.query("SELECT properties FROM events_once")
    assert sorted(orjson.loads(text)["n"] for (text,) in numbers) == list(range(1000))
    assert site.dead("events") == []
    # Many messages in a block: 200 in batches of 40.
    attempts = lines.attempts()
    assert sum(line["parts"] for line in attempts) == 200 * times
    # A batch is full at 40 events; a list of 17 that does not fit starts the next batch.
    assert len(attempts) <= math.ceil(1000 * times / 24) + 2 * times


def test_events_are_stored_unchanged(site: Site, client: Any) -> None:
    site.actors.record_events.send(
        event(
            eventId=str(UUID(int=7)),
            submissionId="sub-1",
            occurredAt="2026-01-31T10:30:00+01:00",
            properties={"näme": "ü\n\t'\\", "n": None},
        )
    )
    site.work_off("events")
    (row,) = client.query(
        "SELECT event_id, type, form_id, submission_id, session_id, toUnixTimestamp(occurred_at),"
        " properties FROM events_once"
    )
    at = int(datetime(2026, 1, 31, 9, 30, tzinfo=UTC).timestamp())
    assert (str(row[0]), *row[1:6]) == (
        str(UUID(int=7)), "form.viewed", "form-1", "sub-1", "", at,
    )  # fmt: skip
    assert orjson.loads(row[6]) == {"näme": "ü\n\t'\\", "n": None}


GOOD_EVENT = event()
FOREIGN = {
    "a field is missing": plain({"formId": SECRET}),
    "one of a list is bad": plain([event(), {"type": SECRET}]),
    "no payload": plain(None),
    "a time beyond all years": plain(event(occurredAt="0001-01-01T00:00:00+14:00")),
    "metadata is a text": plain(event(), metadata=SECRET),
    "an argument of another name": orjson.dumps(
        {
            "queue_name": "events", "actor_name": "record_events", "args": [],
            "kwargs": {"self": SECRET, "payload": event()}, "options": {},
            "message_id": "odd", "message_timestamp": 1,
        }
    ),
    "too many arguments": orjson.dumps(
        {
            "queue_name": "events", "actor_name": "record_events",
            "args": [event(), {}, SECRET], "kwargs": {}, "options": {},
            "message_id": "odd", "message_timestamp": 1,
        }
    ),
    "arguments of a batch": orjson.dumps(
        {
            "queue_name": "events", "actor_name": "record_events", "args": [],
            "kwargs": {"batch": [{"payload": SECRET}]}, "options": {},
            "message_id": "odd", "message_timestamp": 1,
        }
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", FOREIGN.values(), ids=FOREIGN)
def test_an_invalid_event_of_another_publisher_is_dead_lettered_alone(
    site: Site, client: Any, lines: Lines, bad: bytes
) -> None:
    good = [plain(event()) for _ in range(6)]
    site.inject("events", *good[:3], bad, *good[3:])
    site.work_off("events")
    assert counted(client) == (6, 6, 6)
    (letter,) = site.dead("events")
    assert letter.failure.reason is Reason.INVALID
    assert letter.failure.message.startswith("record_events: ")
    assert SECRET not in repr(letter.failure)
    assert SECRET not in lines.text
    # It was one batch: the invalid event was not alone in it.
    assert [line["parts"] for line in lines.attempts()] == [7]
    assert [line["partsFailed"] for line in lines.attempts()] == [1]
    # The dead letter has the original payload, so that an operator can correct it.
    assert SECRET in repr(letter.message) or SECRET.encode() not in bad


def test_positional_arguments_of_a_stock_producer_are_accepted(site: Site, client: Any) -> None:
    message = {
        "queue_name": "events", "actor_name": "record_events",
        "args": [event(), {"formId": "form-1"}], "kwargs": {}, "options": {},
        "message_id": "stock", "message_timestamp": 1,
    }  # fmt: skip
    site.inject("events", orjson.dumps(message))
    site.work_off("events")
    assert site.dead("events") == []
    assert counted(client) == (1, 1, 1)


def tighten(client: Any, form_id: str = "FixedString(8)") -> None:
    """Add a constraint that refuses events which the actor accepts."""
    for table in ("events_daily_feed", "events_once", "events"):
        client.command(f"DROP TABLE {table}")
    client.command(
        f"CREATE TABLE events (event_id UUID, type String, form_id {form_id},"
        " submission_id String, session_id String, occurred_at DateTime, properties String)"
        " ENGINE = MergeTree PARTITION BY tuple() ORDER BY event_id"
    )


def test_a_row_that_the_server_refuses_is_dead_lettered_alone(site: Site, client: Any) -> None:
    tighten(client)
    bad = {3, 11}
    # An event with another error comes first, so that indexes of rows and of messages differ.
    site.inject("events", plain({"formId": "form-1"}))
    sent = [
        site.actors.record_events.send(event(formId="too long for it" if n in bad else "form-1"))
        for n in range(20)
    ]
    site.work_off("events")
    ((count,),) = client.query("SELECT uniqExact(event_id) FROM events")
    assert count == 18
    reasons = {letter.id: letter.failure.reason for letter in site.dead("events")}
    assert len(reasons) == 3
    refused = {id for id, reason in reasons.items() if reason is Reason.PERMANENT}
    assert refused == {sent[n].message_id for n in bad}


def test_a_missing_table_is_logged_and_pauses_the_queue_without_using_attempts(
    site: Site, client: Any, lines: Lines
) -> None:
    client.command("RENAME TABLE events TO hidden")
    site.actors.record_events.send({"type": "form.viewed", "formId": "form-1"})
    (wire,) = site.messages("events")
    (sent,) = wire["kwargs"]["payload"]
    site.start("events")
    # More often than the three attempts of the policy.
    wait_until(lambda: len(lines.attempts()) >= 2)
    (alert,) = lines.of("pausing consumption: ClickHouse is unavailable")
    assert (alert["level"], alert["code"]) == ("ERROR", 60)
    assert "formrelay migrate" in alert["errorMessage"]
    client.command("RENAME TABLE hidden TO events")
    wait_until(lambda: site.is_idle("events"))
    assert {(line["attempt"], line["outcome"]) for line in lines.attempts()[:2]} == {(1, "defer")}
    assert site.dead("events") == []
    # Every attempt has the id and the time that were set at send().
    ((found, at),) = client.query("SELECT event_id, toUnixTimestamp(occurred_at) FROM events")
    assert str(found) == sent["eventId"]
    assert at == int(datetime.fromisoformat(sent["occurredAt"]).timestamp())


@pytest.mark.slow
def test_a_queue_pauses_while_clickhouse_is_unavailable_and_then_drains(
    site: Site, lines: Lines, clickhouse_server: ClickHouseServer
) -> None:
    client = site.use_clickhouse(clickhouse_server.url, "outage")
    clickhouse_server.kill()
    site.actors.record_events.send(event())
    site.start("events")
    wait_until(lambda: lines.of("pausing consumption: ClickHouse is unavailable"))
    (line,) = lines.of("pausing consumption: ClickHouse is unavailable")
    assert line["level"] == "WARNING"
    for _ in range(300):
        site.actors.record_events.send(event())
    # A single message probes it after 1, 2 and 4 s.
    wait_until(lambda: len(lines.attempts()) >= 3)
    assert [one["parts"] for one in lines.attempts()[:3]] == [1, 1, 1]
    assert site.waiting("events") >= 297
    clickhouse_server.start()
    wait_until(lambda: site.is_idle("events"))
    assert counted(client) == (301, 301, 301)
    assert site.dead("events") == []
    assert lines.of("resuming consumption: ClickHouse is available")
    assert {line["outcome"] for line in lines.attempts()} == {"defer", "done"}
    assert {line["attempt"] for line in lines.attempts()} == {1}


# -- tables by type ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "table"),
    [
        ("payment.failed", "payments"),
        ("payment.", "payments"),
        ("payment", "events"),
        ("webhook.endpoint_disabled", "ops"),
        ("webhook.endpoint_disabled.twice", "events"),
        ("form_viewed", "events"),
    ],
)
def test_an_event_goes_into_the_table_of_the_first_matching_rule(
    site: Site, type: str, table: str
) -> None:
    rules = [("payment.*", "payments"), ("webhook.endpoint_disabled", "ops"), ("pay*", "events")]
    assert routing.Router(rules).table_of(type) == table


@pytest.fixture
def payments(site: Site, client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a ClickHouse with a separate table for payments."""
    from formrelay.sinks.clickhouse import TableSchema, migrate

    rules = [("payment.*", "payments")]
    monkeypatch.setattr(events, "_router", lambda: routing.Router(rules))
    monkeypatch.setattr(events, "_backoffs", routing.TableBackoffs())
    migrate.apply(client, TableSchema(event_tables=("events", "payments")))
    return client


def in_tables(client: Any) -> tuple[int, int]:
    return tuple(
        client.query(f"SELECT uniqExact(event_id) FROM {table}")[0][0]
        for table in ("events", "payments")
    )


def test_a_batch_is_one_block_for_each_table(site: Site, payments: Any, lines: Lines) -> None:
    types = ["form_viewed", "payment.made", "payment.failed"]
    for n in range(12):
        site.actors.record_events.send(event(type=types[n % 3]))
    site.actors.record_events.send([event(), event(type="payment.made")])
    site.work_off("events")
    assert in_tables(payments) == (5, 9)
    parts = payments.query(
        "SELECT table, count() FROM system.parts WHERE database = currentDatabase() AND level = 0"
        " AND table IN ('events', 'payments') GROUP BY table ORDER BY table"
    )
    assert parts == [("events", 1), ("payments", 1)]
    assert [line["parts"] for line in lines.attempts()] == [13]


def test_a_missing_table_does_not_delay_events_of_another_table(
    site: Site, payments: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "BACKOFF", Exponential(base=timedelta(seconds=0.3)))
    payments.command("RENAME TABLE payments TO hidden")
    for n in range(6):
        site.actors.record_events.send(event(type="payment.made" if n % 2 else "form_viewed"))
    site.start("events")
    wait_until(lambda: payments.query("SELECT count() FROM events") == [(3,)])
    for _ in range(5):
        site.actors.record_events.send(event())
    wait_until(lambda: payments.query("SELECT count() FROM events") == [(8,)])
    alerts = lines.of("deferring events: their table accepts no rows")  # one for each try
    told = {(alert["level"], alert["table"], alert["code"]) for alert in alerts}
    assert told == {("ERROR", "payments", 60)}
    payments.command("RENAME TABLE hidden TO payments")
    wait_until(lambda: site.is_idle("events"))
    assert in_tables(payments) == (8, 3)
    assert site.dead("events") == []
    assert {line["attempt"] for line in lines.attempts()} == {1}


# -- odd blocks ----------------------------------------------------------------------------


def test_events_of_more_months_than_a_block_allows_are_inserted(site: Site, client: Any) -> None:
    for n in range(130):
        at = f"{1990 + n // 12}-{n % 12 + 1:02}-15T00:00:00Z"
        site.actors.record_events.send(event(occurredAt=at))
    events.record_events(batch=[m["kwargs"] for m in site.messages("events")])
    assert counted(client) == (130, 130, 130)


def test_if_one_row_of_a_list_is_refused_the_others_are_inserted(site: Site, client: Any) -> None:
    tighten(client)
    ids = ["form-1"] * 9
    ids[3] = "too long for it"
    site.actors.record_events.send([event(formId=id) for id in ids])
    site.work_off("events")
    assert client.query("SELECT uniqExact(event_id) FROM events") == [(8,)]
    (letter,) = site.dead("events")
    assert letter.failure.message.startswith("item 4 of 9: ClickHouse refused the rows")


def test_a_table_that_refuses_every_row_is_logged_and_no_event_is_lost(
    site: Site, client: Any, lines: Lines
) -> None:
    tighten(client, "FixedString(1)")
    for _ in range(20):
        site.actors.record_events.send(event())
    site.start("events")
    wait_until(lambda: lines.of("pausing consumption: ClickHouse is unavailable"))
    (alert,) = lines.of("pausing consumption: ClickHouse is unavailable")
    assert (alert["level"], alert["code"]) == ("ERROR", 131)
    site.stop()
    assert site.dead("events") == []


def test_an_event_without_an_id_gets_the_same_id_at_each_attempt(site: Site, client: Any) -> None:
    at = {"type": "form_viewed", "formId": "form-1", "occurredAt": AT}
    site.inject("events", plain([at, at]))
    site.work_off("events")
    made = {str(id) for (id,) in client.query("SELECT event_id FROM events")}
    assert len(made) == 2
    # The same message is delivered again, as after a kill of its worker.
    keys, redis = site.broker.keys, site.broker.client  # type: ignore[attr-defined]
    redis.hset(keys.bodies("events"), "one", plain([at, at]))
    for _ in range(2):
        redis.hset(keys.bodies("events"), "one", plain([at, at]))
        redis.rpush(keys.waiting("events"), "one")
        site.work_off("events")
    assert counted(client) == (4, 4, 4)


def test_two_events_with_the_same_message_id_are_both_counted(site: Site, client: Any) -> None:
    # As from an emptied server, or from a publisher that numbers its messages from 1 at each start.
    keys, redis = site.broker.keys, site.broker.client  # type: ignore[attr-defined]
    for form in ("form-1", "form-2"):
        body = plain({"type": "form_viewed", "formId": form, "occurredAt": AT})
        redis.hset(keys.bodies("events"), "1", body)
        redis.rpush(keys.waiting("events"), "1")
        site.work_off("events")
    assert counted(client) == (2, 2, 2)


def test_other_content_with_the_same_ids_has_another_token(site: Site) -> None:
    table = routing.Router(()).tables["events"]
    one, other = rows(site, 1, 2), rows(site, 1, 2)
    other[1] = (*other[1][:-1], '{"a":1}')
    assert insert.token(table, one) != insert.token(table, other)


ODD_SPELLINGS = [
    {"event_id": "nope"},
    {"occurred_at": "nope"},
    {"form_id": 5},
    {"session_id": 5, "sessionId": "s"},
    {"properties": {}, "__pydantic_serializer__": 3},
    {"__dict__": 3, "__class__": 4},
]


@pytest.mark.parametrize("odd", ODD_SPELLINGS, ids=str)
def test_a_duplicate_key_in_an_event_affects_no_other_event(
    site: Site, client: Any, odd: dict[str, Any]
) -> None:
    site.inject("events", plain(event()), plain(event(**odd)), plain(event()))
    site.work_off("events")
    letters = site.dead("events")
    assert {letter.failure.reason for letter in letters} <= {Reason.INVALID}
    assert counted(client) == (3 - len(letters),) * 3


@pytest.mark.parametrize("odd", ODD_SPELLINGS, ids=str)
def test_a_duplicate_key_is_accepted_or_refused_at_send(site: Site, odd: dict[str, Any]) -> None:
    try:
        site.actors.record_events.send(event(**odd))
    except InvalidJob:
        assert site.waiting() == 0
        return
    (message,) = site.messages("events")
    (sent,) = message["kwargs"]["payload"]
    assert UUID(sent["eventId"])
    assert datetime.fromisoformat(sent["occurredAt"])


def test_a_batch_is_retried_unchanged_if_the_server_fails_for_one_table(
    site: Site, payments: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[tuple[str, str]] = []
    sink = resources.clickhouse()
    real = sink.insert

    def insert(table: str, *args: Any, token: str, **options: Any) -> None:
        if table == "payments":
            broken.append((table, token))
            if len(broken) < 3:
                raise SinkTransient("the connection to ClickHouse was lost")
        real(table, *args, token=token, **options)

    monkeypatch.setattr(sink, "insert", insert)
    for n in range(6):
        site.actors.record_events.send(event(type="payment.made" if n % 2 else "form_viewed"))
    site.work_off("events")
    assert len(set(broken)) == 1  # the same rows in the same order, with the same token
    assert in_tables(payments) == (3, 3)


def test_a_missing_table_pauses_no_queue_even_without_other_events(
    site: Site, payments: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with little traffic, when a batch is a single message.
    payments.command("RENAME TABLE payments TO hidden")
    site.start("events")
    for count in range(1, 4):
        site.actors.record_events.send(event(type="payment.made"))
        wait_until(lambda count=count: len(lines.attempts()) >= 2 * count - 1)  # type: ignore[misc]
        site.actors.record_events.send(event())
        wait_until(lambda count=count: payments.query("SELECT count() FROM events") == [(count,)])  # type: ignore[misc]
    assert lines.of("pausing consumption: ClickHouse is unavailable") == []
    assert len(lines.of("deferring events: their table accepts no rows")) == 1
    assert site.broker.counts("events").scheduled == 3
    site.stop()


def test_a_table_that_is_back_is_logged_and_each_failure_lengthens_the_wait(
    site: Site, lines: Lines
) -> None:
    clock = ManualClock()
    waits = routing.TableBackoffs(clock=clock)
    why = SinkTransient("missing", code=60)
    found = []
    for _ in range(8):
        found.append(waits.failed("payments", why).after.total_seconds())
        assert waits.failed("payments", why).after.total_seconds() == found[-1]
        clock.now += found[-1]
        assert waits.active("payments") is None
    assert found == [30, 60, 120, 240, 480, 900, 900, 900]
    assert len(lines.of("deferring events: their table accepts no rows")) == 8
    waits.worked("payments")
    waits.worked("payments")
    assert len(lines.of("resuming events: their table accepts rows")) == 1
    assert waits.failed("payments", why).after.total_seconds() == 30


@pytest.mark.parametrize("with_id", [True, False])
def test_an_event_without_a_time_gets_the_same_time_at_each_attempt(
    site: Site, client: Any, monkeypatch: pytest.MonkeyPatch, with_id: bool
) -> None:
    sink = resources.clickhouse()
    real = sink.insert
    came: list[Any] = []

    # The retry is more than a second later, because an old ClickHouse stores whole seconds.
    def insert(table: str, columns: Any, data: Any, **options: Any) -> None:
        real(table, columns, data, **options)
        came.append(data[list(columns).index("occurred_at")])
        if len(came) == 1:  # inserted, but the answer is lost
            raise SinkTransient("no answer in time", retry_after=timedelta(seconds=1.1))

    monkeypatch.setattr(sink, "insert", insert)
    one = {"type": "form_viewed", "formId": "form-1"}
    if with_id:
        one["eventId"] = str(uuid4())
    site.inject("events", plain(one))
    site.work_off("events")
    assert len(came) == 2
    assert came[0] == came[1]
    assert counted(client) == (1, 1, 1)
