"""The receivers of alerts: the log, a webhook, Alertmanager, a chat, e-mail.

An operator names these URLs, so they may be in a private network, unlike the URLs of webhooks.
No redirect is followed, no proxy is used, and no URL is logged: URLs of chats are secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import orjson

from ...config import Settings
from ...core.errors import ConfigError, InvalidJob, SinkPermanent, SinkTransient
from ...core.signing import sign
from ...sinks.http.blocking import BlockingClient, RequestFailed
from ...state.digests import digest
from .messages import (
    Notification,
    alertmanager_alert,
    email_bytes,
    slack_message,
    title,
    todo,
    webhook_body,
)

logger = logging.getLogger("formrelay.alerts")

#: Seconds to connect, and for the answer.
_TIMEOUT = (5.0, 10.0)
#: Time-out of each step of an e-mail.
_STEP = timedelta(seconds=15)
_LOG_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING}


class Receiver(Protocol):
    """Takes notifications, one at a time.

    Attributes:
        name: in the outbox and in log lines; without secrets and addresses.
    """

    name: str

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        """Deliver a notification.

        Args:
            id: the same at every attempt.
            now: Unix seconds.

        Raises:
            SinkPermanent: the receiver refuses this notification; another may work.
            SinkError: the receiver does not work now.
        """

    def refresh(self, notifications: Sequence[Notification], now: float) -> None:
        """Send all alerts that are firing to a receiver that forgets them; others do nothing.

        Raises:
            SinkError
        """


class _Remembers:
    """Base of receivers that need no refresh."""

    def refresh(self, notifications: Sequence[Notification], now: float) -> None:
        """Do nothing."""


class LogReceiver(_Remembers):
    """Writes a line to the log ``formrelay.alerts``."""

    name = "log"

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        is_over = notification["event"] == "resolved"
        level = logging.INFO if is_over else _LOG_LEVELS[notification["severity"]]
        about = {
            "alert": notification["rule"],
            "event": notification["event"],
            "severity": notification["severity"],
            "labels": dict(notification["labels"]),
            "todo": todo(notification),
        }
        logger.log(level, "%s", title(notification), extra=about)


class WebhookReceiver(_Remembers):
    """Sends signed webhooks of the Standard Webhooks specification."""

    name = "webhook"

    def __init__(self, settings: Settings) -> None:
        self._section = settings.alerts
        self._client = BlockingClient(max_bytes=64 * 1024)

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        body = orjson.dumps(webhook_body(notification))
        secret = self._section.secret("webhook_secret") or ""
        headers = sign([secret], webhook_id=id, timestamp=int(now), body=body)
        send(self._client, "POST", self._section.secret("webhook_url") or "", body, headers)


class AlertmanagerReceiver:
    """Sends alerts to Alertmanager's API v2.

    Alertmanager forgets its alerts when it restarts, and alerts that are not sent again.
    """

    name = "alertmanager"

    def __init__(self, settings: Settings) -> None:
        self._section = settings.alerts
        self._client = BlockingClient(max_bytes=64 * 1024)

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        self._send([alertmanager_alert(notification, now)])

    def refresh(self, notifications: Sequence[Notification], now: float) -> None:
        if notifications:
            self._send([alertmanager_alert(each, now) for each in notifications])

    def _send(self, alerts: list[dict[str, Any]]) -> None:
        url = (self._section.secret("alertmanager_url") or "").rstrip("/")
        send(self._client, "POST", f"{url}/api/v2/alerts", orjson.dumps(alerts))


class SlackReceiver(_Remembers):
    """Sends messages to an incoming webhook of Slack."""

    name = "slack"

    def __init__(self, settings: Settings) -> None:
        self._section = settings.alerts
        self._client = BlockingClient(max_bytes=64 * 1024)

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        body = orjson.dumps(slack_message(notification))
        send(self._client, "POST", self._section.secret("slack_url") or "", body)


class EmailReceiver(_Remembers):
    """Sends e-mails to one address, on a connection of its own, not through the queue of e-mails.

    Raises:
        ConfigError: SMTP_URL or the sender is missing, or an address is none.
    """

    def __init__(self, settings: Settings, recipient: str) -> None:
        from ...actors.emails.resources import make_account
        from ...sinks.smtp.address import parse_mailbox

        sender = settings.alerts.email_from or settings.emails.sender
        if sender is None:
            raise ConfigError(
                "expected ALERT_EMAIL_FROM or EMAIL_FROM to be set, because ALERT_EMAIL_TO is set, "
                "got neither"
            )
        try:
            self._from, self._to = parse_mailbox(sender).address, parse_mailbox(recipient).address
        except InvalidJob as error:
            raise ConfigError(f"ALERT_EMAIL_TO or its sender: {error}") from None
        self._sender, self._recipient = sender, recipient
        account = make_account(settings)
        steps = dict.fromkeys(
            ("connect", "tls", "greeting", "login", "mail", "rcpt", "data", "block", "dot"), _STEP
        )
        self._account = replace(account, timeouts=replace(account.timeouts, **steps))
        self.name = f"email.{digest(self._to.lower())[:8]}"

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        from ...sinks.smtp.probe import send_probe

        data = email_bytes(notification, id, self._sender, self._recipient)
        *_, last = send_probe(self._account, self._from, self._to, data)
        if not last.is_ok:
            raise SinkTransient(f"{last.name}: {last.says}")


def make_receivers(settings: Settings) -> list[Receiver]:
    """Make the configured receivers: the log, and others.

    Raises:
        ConfigError: ALERT_EMAIL_TO is set, and SMTP_URL or the sender is missing.
    """
    section = settings.alerts
    found: list[Receiver] = [LogReceiver()]
    if section.webhook_url is not None:
        found.append(WebhookReceiver(settings))
    if section.alertmanager_url is not None:
        found.append(AlertmanagerReceiver(settings))
    if section.slack_url is not None:
        found.append(SlackReceiver(settings))
    found += [EmailReceiver(settings, each) for each in section.email_to]
    return found


def send(
    client: BlockingClient,
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a request of which only the status matters.

    Raises:
        SinkPermanent: the receiver refuses this request.
        SinkTransient: it does not work now.
    """
    all_headers = {"user-agent": "formrelay", **(headers or {})}
    if body is not None:
        all_headers["content-type"] = "application/json"
    try:
        response = client.request(method, url, all_headers, body, _TIMEOUT)
    except RequestFailed as error:
        client.close()
        what = "no answer" if error.was_sent else "no connection"
        raise SinkTransient(f"{what} (libcurl error {error.code})") from None
    if 200 <= response.status < 300:
        return
    kind = SinkPermanent if response.status in (400, 413, 422) else SinkTransient
    raise kind(f"the receiver answered {response.status}", code=response.status)
