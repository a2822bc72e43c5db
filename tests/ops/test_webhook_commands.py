"""``formrelay webhooks attempts`` and ``resend``, with a worker that delivers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actors.receiver import Answer, Receiver, receiving
from tests.ops.shell import Shell
from tests.support.command import run
from tests.support.waiting import wait_until

ENV = {"WEBHOOK_ALLOW_HTTP": "true", "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.mark.slow
def test_attempts_are_listed_by_webhook_id_and_message_id(
    tmp_path: Path, receiver: Receiver, clickhouse_url: str, clickhouse_database: str
) -> None:
    env = {"CLICKHOUSE_URL": clickhouse_url, "CLICKHOUSE_DATABASE": clickhouse_database}
    shell = Shell(tmp_path, **ENV, **env, WEBHOOK_RETRY_DELAYS="0,0.1")
    shell("migrate")
    receiver.answers("/hook", Answer(500, "no room"), Answer(200))
    sent = shell.send(f"{receiver.url}/hook", id="order_17")
    with shell.worker("webhooks", "events"):
        wait_until(lambda: len(receiver.of("/hook")) == 2)

        def found() -> Any:
            done = run("webhooks", "attempts", "order_17", "--json", cwd=tmp_path, env=shell.env)
            return len(attempts := json.loads(done.stdout)) == 2 and attempts

        attempts = wait_until(found)
    assert [(one["attempt"], one["outcome"], one["status"]) for one in attempts] == [
        (1, "failed", 500),
        (2, "delivered", 200),
    ]
    assert attempts[0]["messageId"] == sent
    header, first, second = shell("webhooks", "attempts", sent).stdout.splitlines()
    titles = "at attempt outcome status took host, error and response"
    assert " ".join(header.split()) == titles
    assert "127.0.0.1: the receiver answered 500" in first
    assert "(9 bytes of application/json)" in first
    assert "delivered" in second
    by_prefix = shell("webhooks", "attempts", sent[:8]).stdout
    assert by_prefix == shell("webhooks", "attempts", "order").stdout
    assert by_prefix.splitlines()[2] == second
    assert "nope is recorded" in shell("webhooks", "attempts", "nope", status=1).stdout


def test_dead_waiting_and_delivered_webhooks_are_sent_again(
    tmp_path: Path, receiver: Receiver
) -> None:
    env = {"WEBHOOK_KEEP_DELIVERED_DAYS": "1", "WEBHOOK_DELIVERY_LOG": "false"}
    shell = Shell(tmp_path, **ENV, **env)
    receiver.answers("/dead", Answer(400))
    receiver.answers("/named", Answer(400))
    receiver.answers("/later", Answer(503))
    with shell.worker("webhooks"):
        dead = shell.send(f"{receiver.url}/dead")
        shell.send(f"{receiver.url}/named", id="named_1")
        later = shell.send(f"{receiver.url}/later")
        fine = shell.send(f"{receiver.url}/fine")
        wait_until(lambda: len(receiver.requests) >= 4)
        wait_until(lambda: len(shell.json("dlq", "list")) == 2, every=0.3)

        # Without ClickHouse, the broker still knows the last failure.
        done = shell("webhooks", "attempts", f"msg_{dead}", "--json")
        (attempt,) = json.loads(done.stdout)
        assert (attempt["outcome"], attempt["status"], attempt["attempt"]) == ("refused", 400, 1)
        assert "only the last failure of a webhook that is not done" in done.stderr
        assert "the receiver answered 503" in shell("webhooks", "attempts", later[:8]).stdout
        assert "no failure of nope" in shell("webhooks", "attempts", "nope", status=1).stdout

        assert shell("webhooks", "resend", f"msg_{dead}").stdout == f"replayed: msg_{dead}\n"
        assert shell("webhooks", "resend", "named_1").stdout == "replayed: named_1\n"
        assert shell.json("webhooks", "resend", later[:8]) == {"id": later, "done": "tried now"}
        wait_until(lambda: len(receiver.of("/later")) == 2)
        assert shell("webhooks", "resend", f"msg_{fine}").stdout == f"sent again: msg_{fine}\n"
        wait_until(lambda: len(receiver.of("/fine")) == 2)
        wait_until(lambda: len(receiver.of("/dead")) == 2)
        wait_until(lambda: len(receiver.of("/named")) == 2)
    for path in ("/fine", "/later", "/dead", "/named"):
        ids = {request.headers["webhook-id"] for request in receiver.of(path)}
        assert len(ids) == 1  # the same webhook-id, so that receivers can drop duplicates
    error = shell("webhooks", "resend", "nope", status=1).stderr
    assert "there is no webhook 'nope'" in error
    assert "WEBHOOK_KEEP_DELIVERED_DAYS" in error
