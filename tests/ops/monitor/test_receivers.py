"""What real receivers get: a signed webhook, a chat, a mail server, Alertmanager."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import standardwebhooks

from formrelay.config import Settings
from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.clock import SYSTEM_CLOCK
from formrelay.core.errors import ConfigError
from formrelay.ops.monitor import outbox_delivery
from formrelay.ops.monitor.findings import Finding, finding
from formrelay.ops.monitor.outbox_delivery import OutboxDelivery
from formrelay.ops.monitor.receivers import make_receivers
from formrelay.ops.monitor.rules import Evaluation
from formrelay.ops.monitor.watching import Watch
from formrelay.state.alert_store import MemoryAlertStore
from tests.actors.emails.conftest import MailServer, server
from tests.actors.receiver import Answer, Receiver, receiving
from tests.conftest import own
from tests.ops.monitor.watched import Kept, settings_of
from tests.support.servers import AlertmanagerServer
from tests.support.waiting import wait_until

__all__ = ["server"]

SECRET = "whsec_YWxlcnRzIGFyZSBzaWduZWQgd2l0aCB0aGlz"
SILENT = finding("worker_silent", "worker <!channel> & co is silent", worker="host:1")


class Alerts:
    """Alerts in memory, with the receivers of the settings."""

    def __init__(self, settings: Settings) -> None:
        self.store = MemoryAlertStore()
        self.delivery = OutboxDelivery(self.store, make_receivers(settings), SYSTEM_CLOCK)
        self.watch = Watch(self.store, "me", settings.alerts, self.delivery)

    def find(self, *findings: Finding, wait: bool = True) -> None:
        """Note what a look has found."""
        now = self.store.lead("me", settings_of().monitoring.interval, time.time()).now
        self.watch.note(lambda *_: Evaluation(list(findings), frozenset()), now)
        if wait:
            self.delivery.join(30)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_a_webhook_is_signed_and_its_end_follows(receiver: Receiver) -> None:
    url = f"{receiver.url}/alerts/a-secret"
    alerts = Alerts(settings_of(ALERT_WEBHOOK_URL=url, ALERT_WEBHOOK_SECRET=SECRET))
    alerts.find(SILENT)
    for _ in range(2):
        alerts.find()
    first, second = receiver.of("/alerts/a-secret")
    body = standardwebhooks.Webhook(SECRET).verify(first.body, first.headers)
    assert body["type"] == "alert.firing"
    assert body["data"]["rule"] == "worker_silent"
    assert body["data"]["labels"] == {"worker": "host:1"}
    assert body["data"]["endsAt"] is None
    over = standardwebhooks.Webhook(SECRET).verify(second.body, second.headers)
    assert over["type"] == "alert.resolved"
    assert over["data"]["key"] == body["data"]["key"]
    assert over["data"]["endsAt"] >= over["data"]["startsAt"] == body["data"]["startsAt"]
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert alerts.store.load()[1] == []


def test_a_chat_gets_text_without_markup_and_no_log_line_has_its_url(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers("/services/a-secret", Answer(500))
    alerts = Alerts(settings_of(ALERT_SLACK_URL=f"{receiver.url}/services/a-secret"))
    alerts.find(SILENT)
    (request,) = receiver.requests
    assert request.json["text"] == (
        "ALERT formrelay worker_silent: worker &lt;!channel&gt; &amp; co is silent"
    )
    (attachment,) = request.json["attachments"]
    assert attachment["color"] == "danger"
    assert attachment["fields"] == [{"title": "worker", "value": "host:1", "short": True}]
    assert "the receiver answered 500" in str([each.__dict__ for each in caplog.records])
    assert "a-secret" not in str([each.__dict__ for each in caplog.records])


def test_a_notification_that_is_refused_holds_up_no_other(receiver: Receiver) -> None:
    receiver.answers("/", Answer(400), then=Answer())
    alerts = Alerts(settings_of(ALERT_SLACK_URL=f"{receiver.url}/"))
    alerts.find(SILENT, finding("clock_skew", "", host="a"))
    assert len(receiver.requests) == 2
    assert [entry.attempts for entry in alerts.store.load()[1]] == [1]


def test_each_address_gets_an_email_of_its_own_in_one_conversation(server: MailServer) -> None:
    server.answers = {"away@example.org": ["451 4.3.0 later"] * 9}
    alerts = Alerts(
        settings_of(
            SMTP_URL=f"smtp+none://127.0.0.1:{server.port}",
            ALERT_EMAIL_TO="ops@example.org,away@example.org",
            ALERT_EMAIL_FROM="Forms <forms@example.org>",
        )
    )
    alerts.find(SILENT)
    for _ in range(2):
        alerts.find()
    assert server.recipients == [["ops@example.org"]] * 2
    first, over = server.messages
    assert first["subject"] == "ALERT formrelay worker_silent: worker <!channel> & co is silent"
    assert over["subject"].startswith("OVER formrelay worker_silent")
    assert first["references"] == over["references"]
    assert first["message-id"] != over["message-id"]
    assert first["auto-submitted"] == "auto-generated"
    assert "docs/alerts.md#worker_silent" in _text(first)
    left = alerts.store.load()[1]
    assert [entry.notification["event"] for entry in left] == ["firing", "resolved"]
    assert "example.org" not in "".join(entry.receiver for entry in left)


def _text(message: EmailMessage) -> str:
    body = message.get_body()
    assert isinstance(body, EmailMessage)
    return str(body.get_content())


def test_email_without_a_server_or_sender_is_refused() -> None:
    with pytest.raises(ConfigError, match="ALERT_EMAIL_FROM"):
        make_receivers(settings_of(SMTP_URL="smtp://host", ALERT_EMAIL_TO="a@b.example"))
    wrong = {"ALERT_EMAIL_FROM": "a@b.example", "ALERT_EMAIL_TO": "a@b..example"}
    with pytest.raises(ConfigError, match="ALERT_EMAIL_TO or its sender"):
        make_receivers(settings_of(SMTP_URL="smtp://host", **wrong))
    with pytest.raises(ConfigError, match="SMTP_URL"):
        make_receivers(settings_of(ALERT_EMAIL_FROM="a@b.example", ALERT_EMAIL_TO="a@b.example"))


def test_a_receiver_that_is_down_delays_no_other_and_gets_everything_later(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_delivery, "_FIRST_RETRY", 0.0)
    receiver.answers("/hooks", Answer(503), Answer(503), then=Answer())
    receiver.answers("/chat", then=Answer(after=600))  # never answers
    alerts = Alerts(
        settings_of(
            ALERT_WEBHOOK_URL=f"{receiver.url}/hooks",
            ALERT_WEBHOOK_SECRET=SECRET,
            ALERT_SLACK_URL=f"{receiver.url}/chat",
            ALERT_REPEAT_SECONDS="0.000001",
        )
    )
    for _ in range(2):  # two failures of the first
        alerts.find(SILENT, wait=False)
        wait_until(lambda: not _runs(alerts, "webhook"))
    alerts.find(SILENT, wait=False)
    wait_until(lambda: not [e for e in alerts.store.load()[1] if e.receiver == "webhook"])
    types = [request.json["type"] for request in receiver.of("/hooks")]
    assert types[0] == "alert.firing"
    delivered = types[2:]
    assert delivered == ["alert.firing", "alert.repeated"], "repetitions are said once"
    assert len(receiver.of("/chat")) == 1


def _runs(alerts: Alerts, name: str) -> bool:
    return next(line.is_running for line in alerts.delivery._lines if line.receiver.name == name)


def test_alertmanager_has_the_alert_while_it_fires_and_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own(AlertmanagerServer) as server:
        alerts = Alerts(settings_of(ALERT_ALERTMANAGER_URL=server.url, ALERT_SOURCE="test"))
        alerts.find(SILENT)
        (alert,) = _alerts(server)
        assert alert["labels"] == {
            "alertname": "worker_silent",
            "severity": "critical",
            "source": "test",
            "worker": "host:1",
        }
        assert "silent" in alert["annotations"]["summary"]
        server.restart()
        assert _alerts(server) == [], "it forgets"
        monkeypatch.setattr(outbox_delivery, "_REFRESH", 0.0)
        alerts.find(SILENT)
        (again,) = _alerts(server)
        assert again["fingerprint"] == alert["fingerprint"]
        assert again["startsAt"] == alert["startsAt"]
        for _ in range(2):
            alerts.find()
        assert _alerts(server) == []


def _alerts(server: AlertmanagerServer) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{server.url}/api/v2/alerts", timeout=30) as response:
        found: list[dict[str, Any]] = json.loads(response.read())
    return found


def test_no_notification_is_said_twice_although_results_cannot_be_noted() -> None:
    class Forgetful(MemoryAlertStore):
        def settle(self, *_: Any) -> None:
            raise BrokerUnavailable("down")

    kept, store = Kept(), Forgetful()
    deliveries = OutboxDelivery(store, [kept], SYSTEM_CLOCK)
    watch = Watch(store, "me", settings_of().alerts, deliveries)
    for _ in range(3):
        now = store.lead("me", settings_of().monitoring.interval, time.time()).now
        watch.note(lambda *_: Evaluation([SILENT], frozenset()), now)
        deliveries.join(30)
    assert [event for event, _, _ in kept.said] == ["firing"]
