"""Notifications, and their form for each kind of receiver. Pure functions.

A notification is plain JSON, since it is stored in the outbox::

    {"event": "firing" | "repeated" | "resolved", "rule": …, "severity": …, "labels": {…},
     "summary": …, "todo": …, "source": …, "key": …, "starts_at": …, "ends_at": … | null, "at": …}

Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, TypeAlias

from ...core.clock import iso
from ...core.printable import printable
from ...state.digests import digest
from ...state.millis import from_millis
from ..output import age
from .alert_states import AlertState, Event
from .findings import ABOUT

Notification: TypeAlias = Mapping[str, Any]

#: Seconds for which Alertmanager keeps a firing alert that is not sent again.
ALERTMANAGER_KEEP = 3_600.0
_DOCS = "docs/alerts.md"
_COLORS = {"critical": "danger", "warning": "warning"}
_WORDS = {"firing": "ALERT", "repeated": "STILL", "resolved": "OVER"}


def notify(event: Event, source: str, now: float) -> tuple[str, Notification]:
    """Make the notification of an event, and its id, the same whoever makes it.

    Args:
        source: name of the installation.
        now: Unix seconds.
    """
    state = event.state
    id = digest(state.finding.key, f"{state.since:.3f}", event.kind, str(state.said))
    return f"alert_{id}", _notification(event.kind, state, event.ended_at, source, now)


def firing_now(state: AlertState, source: str, now: float) -> Notification:
    """Make a notification of an alert that is firing, for a receiver that forgets."""
    return _notification("firing", state, None, source, now)


def _notification(
    kind: str, state: AlertState, ended_at: float | None, source: str, now: float
) -> Notification:
    finding = state.finding
    about = ABOUT[finding.rule]
    return {
        "event": kind,
        "rule": finding.rule,
        "severity": about.severity,
        "labels": dict(finding.labels),
        "summary": finding.summary,
        "todo": about.todo,
        "source": printable(source),
        "key": finding.key,
        "starts_at": state.since,
        "ends_at": ended_at,
        "at": now,
    }


def title(notification: Notification) -> str:
    """One line: ``ALERT formrelay worker_silent: worker …``."""
    word = _WORDS.get(notification["event"], "ALERT")
    source, rule = notification["source"], notification["rule"]
    return f"{word} {source} {rule}: {notification['summary']}{_lasted(notification)}"


def _lasted(notification: Notification) -> str:
    """How long the problem has lasted, unless it is new."""
    if notification["event"] == "firing":
        return ""
    ends = notification["ends_at"] or notification["at"]
    lasted = age(max(0.0, ends - notification["starts_at"]))
    return f" (over after {lasted})" if notification["event"] == "resolved" else f" (for {lasted})"


def todo(notification: Notification) -> str:
    """What to do, with the section of the documentation."""
    return f"{notification['todo']}; {_DOCS}#{notification['rule']}"


def webhook_body(notification: Notification) -> dict[str, Any]:
    """The body of a webhook: an event of the Standard Webhooks specification."""
    ends = notification["ends_at"]
    data = {name: notification[name] for name in ("rule", "severity", "source", "key", "labels")}
    data |= {
        "summary": notification["summary"],
        "todo": todo(notification),
        "startsAt": iso(notification["starts_at"]),
        "endsAt": None if ends is None else iso(ends),
    }
    kind = f"alert.{notification['event']}"
    return {"type": kind, "timestamp": iso(notification["at"]), "data": data}


def alertmanager_alert(notification: Notification, now: float) -> dict[str, Any]:
    """An alert of Alertmanager's API v2, identified by its labels."""
    is_over = notification["event"] == "resolved"
    ends = notification["ends_at"] if is_over else now + ALERTMANAGER_KEEP
    return {
        "labels": {
            **notification["labels"],
            "alertname": notification["rule"],
            "severity": notification["severity"],
            "source": notification["source"],
        },
        "annotations": {"summary": notification["summary"], "description": todo(notification)},
        "startsAt": iso(notification["starts_at"]),
        "endsAt": iso(max(ends, notification["starts_at"])),
    }


def slack_message(notification: Notification) -> dict[str, Any]:
    """A message of Slack's incoming webhooks, which other chats take too."""
    is_over = notification["event"] == "resolved"
    color = "good" if is_over else _COLORS.get(notification["severity"], "warning")
    text = _slack_text(title(notification))
    attachment: dict[str, Any] = {
        "color": color,
        "fallback": text,
        "fields": [
            {"title": name, "value": _slack_text(value), "short": True}
            for name, value in notification["labels"].items()
        ],
    }
    if not is_over:
        attachment["text"] = _slack_text(todo(notification))
    return {"text": text, "attachments": [attachment]}


def _slack_text(text: str) -> str:
    """Escape the characters that begin Slack's markup, such as ``<!channel>``."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def email_bytes(notification: Notification, id: str, sender: str, recipient: str) -> bytes:
    """An e-mail. E-mails about one alert are one conversation.

    Args:
        id: of the notification: the same at every attempt.
    """
    message = EmailMessage(policy=SMTP)
    domain = sender.rpartition("@")[2].strip("<> ") or "localhost"
    thread = f"<alert_{notification['key']}.{notification['starts_at']:.0f}@{domain}>"
    message["From"], message["To"] = sender, recipient
    message["Subject"] = title(notification)[:200]
    message["Date"] = format_datetime(from_millis(round(notification["at"] * 1000)))
    message["Message-ID"] = f"<{id}@{domain}>"
    message["References"] = thread
    message["Auto-Submitted"] = "auto-generated"
    labels = [f"{name}: {value}" for name, value in notification["labels"].items()]
    lines = [title(notification), "", *labels, f"severity: {notification['severity']}"]
    lines.append(f"since: {iso(notification['starts_at'])}")
    if notification["ends_at"] is not None:
        lines.append(f"until: {iso(notification['ends_at'])}")
    lines += ["", todo(notification), ""]
    message.set_content("\n".join(lines), cte="quoted-printable")
    return bytes(message)
