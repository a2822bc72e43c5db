"""The documented rights of a Redis user suffice for every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis

from formrelay.brokers.errors import BrokerRefused
from formrelay.state import (
    make_alert_store,
    make_audit_log,
    make_bounce_rates,
    make_claims,
    make_history,
    make_idempotency_store,
    make_journal,
    make_leases,
    make_rate_limits,
    make_suppressions,
    make_task_store,
    make_worker_reports,
)
from formrelay.state.alert_store import OutboxEntry
from formrelay.state.audit import AuditEntry
from formrelay.state.claims import SheetFacts
from formrelay.state.connections import Refreshed
from formrelay.state.history import Tally
from formrelay.state.journal import RecipientOutcome, Run
from formrelay.state.rate_limits import Limit
from formrelay.state.redis.tokens import RedisTokenStore
from formrelay.state.suppressions import Suppression, SuppressionReason
from formrelay.state.task_store import TaskRecord
from formrelay.state.tokens import Tokens
from formrelay.state.worker_reports import WorkerReport
from tests.brokers.redis.test_rights import documented, with_password
from tests.state.stores import state_of
from tests.support.servers import RedisServer

pytestmark = pytest.mark.redis

HOUR = timedelta(hours=1)
ANN = "ann@example.org"


def test_every_store_works_with_the_documented_rights(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        rules = with_password(documented())
        admin.execute_command("ACL", "SETUSER", "me", "reset", "on", ">secret", *rules)
    state = state_of(f"redis://me:secret@127.0.0.1:{redis_server.port}/0")

    limits = make_rate_limits(state)
    assert limits.take([("a", Limit(1, HOUR))]) is None
    assert limits.take([("a", Limit(1, HOUR))]) is not None
    limits.close_until("a", HOUR)

    history = make_history(state)
    history.add({"q": Tally(dead=1, errors={"e": 1})}, source="me", number=1)
    assert history.read().keys() == history.errors().keys() == {"q"}

    reports = make_worker_reports(state)
    reports.report(WorkerReport("host:1", "1.0"))
    reports.mark_ended(WorkerReport("host:1", "1.0"))
    assert [report.name for report in reports.read()] == ["host:1"]
    reports.remove("host:1")

    alerts = make_alert_store(state)
    assert alerts.lead("me", HOUR, 0).leads
    assert alerts.commit("me", [], [OutboxEntry("id", "log", {}, 0)]) == 0
    alerts.settle(alerts.load()[1])
    alerts.let_go("me")

    leases = make_leases(state)
    assert leases.hold("a", "owner", 1, HOUR)
    assert leases.held("a") == 1
    leases.let_go("a", "owner")

    suppressions = make_suppressions(state)
    ends = datetime.now(UTC) + HOUR
    assert suppressions.add([Suppression(ANN, SuppressionReason.FULL, None, ends)]) == 1
    assert suppressions.find([ANN]).keys() == {ANN}
    assert len(suppressions.page().entries) == suppressions.count() == 1
    assert suppressions.note_soft_bounce(ANN, "event", HOUR) == 1
    assert suppressions.remove([ANN]) == 1

    rates = make_bounce_rates(state)
    rates.note_sent("a", 1)
    assert rates.note_bounced("a", "one").bounced == 1

    log = make_audit_log(state)
    log.add(AuditEntry("ann", "cli", "dlq replay"))
    assert len(log.newest().entries) == 1

    store = make_task_store(state)
    store.write(TaskRecord("one", "dlq replay", "", "ann"))
    assert store.request_stop("one", "ann")
    assert len(store.newest()) == 1
    assert store.find("one") is not None

    claims = make_claims(state)
    assert claims.claim("book", "token", ["job"], {"A1:B2": 1}).unknown == {"job"}
    claims.settle("book", SheetFacts(applied=["token"]))
    assert claims.done("book", ["job"]) == {"job"}

    journal = make_journal(state)
    run = journal.begin("job", [ANN])
    assert isinstance(run, Run)
    journal.sending(run, [ANN])
    journal.note(run, {"digest": "abc"})
    assert journal.renew(run.key, run.owner, HOUR)
    assert journal.settle(run, {ANN: RecipientOutcome("accepted")})
    journal.end(run)
    journal.name(run, "their-id")
    assert journal.named("their-id") == run.key
    assert journal.read("job") is not None

    tokens = Tokens(RedisTokenStore(state), make_idempotency_store(state), None)
    assert tokens.adopt("c", "R0", keep=HOUR)
    assert tokens.access_token("c", lambda _: Refreshed("A1", HOUR, "R1")) == "A1"
    assert tokens.pause("c", "why")
    assert tokens.resume("c")
    tokens.consent("c", "R2")
    assert len(tokens.connections()) == 1
    assert tokens.remove("c")


def test_a_missing_right_is_an_error_that_names_it(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        rules = ["~other:*", "+@all"]
        admin.execute_command("ACL", "SETUSER", "me", "reset", "on", ">secret", *rules)
    state = state_of(f"redis://me:secret@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(BrokerRefused, match=r"refused: .*(NOPERM|permission|key)"):
        make_rate_limits(state).take([("a", Limit(1, HOUR))])
