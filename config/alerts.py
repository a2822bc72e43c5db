"""The variables of monitoring and alerts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, ClassVar, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from ..core.errors import InvalidJob
from ..core.signing import check_secrets
from .base import Section
from .emails import Sender
from .expected import Expected, shown
from .secrets import secret
from .types import Count, Decimal, MillisecondsFrom100, Seconds, Split, Takes
from .urls import url_check

#: The names of the rules; docs/alerts.md.
RULES = (
    *("broker_unreachable", "store_unreachable", "worker_crashed", "worker_silent"),
    "worker_hangs",
    *("worker_without_broker", "queue_without_worker", "queue_too_long", "oldest_waiting"),
    *("scheduler_late", "error_rate", "dead_letters_growing", "sink_unreachable", "sink_paused"),
    *("breaker_open", "endpoint_disabled", "connection_paused", "clock_skew", "receiver_failing"),
    "look_failed",
)
#: Stands for every queue, or rule, that is not named.
OTHERS = "*"

#: Numbers by the name of a queue or rule; the name ``*`` for all others.
Numbers: TypeAlias = tuple[tuple[str, float], ...]


def number_of(numbers: Numbers, name: str) -> float:
    """Return the number of ``name``, otherwise that of all others, otherwise 0."""
    found = dict(numbers)
    return found.get(name, found.get(OTHERS, 0.0))


def _read_number(value: object) -> object:
    if not isinstance(value, str):
        return value
    name, equals, number = value.rpartition("=")
    if equals and not name.strip():
        raise ValueError("no name")
    return (name.strip() or OTHERS), number.strip()


def _check_unique(numbers: Numbers) -> Numbers:
    names = [name for name, _ in numbers]
    for name in names:
        if names.count(name) > 1:
            what = "one number for all others" if name == OTHERS else f"{shown(name)} once"
            raise Expected(f"have {what}", got="two numbers for it")
    return numbers


def _check_rules(numbers: Numbers) -> Numbers:
    for name, _ in numbers:
        if name != OTHERS:
            _check_rule(name)
    return numbers


def _check_rule(name: str) -> str:
    if name not in RULES:
        raise Expected(
            "name rules of alerts", got=shown(name), advice=f"the rules are {', '.join(RULES)}"
        )
    return name


_Number = Annotated[
    tuple[str, Annotated[Decimal, Field(ge=0)]],
    BeforeValidator(_read_number),
]
ByQueue = Annotated[
    tuple[_Number, ...],
    Split,
    AfterValidator(_check_unique),
    Takes(
        "a number for all queues, and others by queue, comma-separated (1000,webhooks=5000); 0 "
        "switches the rule off"
    ),
]
ByRule = Annotated[
    tuple[_Number, ...],
    Split,
    AfterValidator(_check_unique),
    AfterValidator(_check_rules),
    Takes("seconds for all rules, and others by rule, comma-separated (60,breaker_open=900)"),
]
Rules = Annotated[
    tuple[Annotated[str, AfterValidator(_check_rule)], ...],
    Split,
    Takes("names of rules, comma-separated, like breaker_open,clock_skew"),
]


def _check_signing_secret(text: str) -> str:
    try:
        check_secrets([text])
    except InvalidJob as error:
        raise Expected("be a signing secret (whsec_...)", got=None, advice=str(error)) from None
    return text


_check_http = url_check("http", "https", advice="write https://host/path")
HttpUrl = Annotated[SecretStr, secret(_check_http)]
SigningSecret = Annotated[SecretStr, secret(_check_signing_secret)]
Recipients = Annotated[
    tuple[Sender, ...], Split, Takes("addresses like ops@example.com, comma-separated")
]


class MonitoringSettings(Section):
    """Monitoring"""

    prefix: ClassVar[str] = "WORKER_MONITORING_"

    enabled: bool = Field(
        False,
        description="Whether worker processes look for problems and send alerts: one of them, "
        "elected. `formrelay monitor` does so without workers.",
    )
    interval: MillisecondsFrom100 = Field(
        timedelta(seconds=30),
        validation_alias="WORKER_MONITORING_INTERVAL",
        description="Milliseconds between two looks, at least 100.",
    )


class AlertSettings(Section):
    """Alerts of monitoring"""

    prefix: ClassVar[str] = "ALERT_"
    hides_paths: ClassVar[bool] = True

    source: str = Field(
        "formrelay",
        description="Name of this installation in alerts, such as 'forms production'.",
    )
    rules_off: Rules = Field((), description="Rules that are not checked, comma-separated.")
    max_waiting: ByQueue = Field(
        (("*", 10_000.0),),
        description="Number of waiting jobs of a queue from which queue_too_long alerts, for all "
        "queues and by queue: 10000,events=500000. 0: never.",
    )
    max_oldest_seconds: ByQueue = Field(
        (("*", 900.0),),
        description="Age in seconds of the oldest waiting job from which oldest_waiting alerts, "
        "for all queues and by queue. 0: never.",
    )
    max_late_seconds: ByQueue = Field(
        (("*", 60.0),),
        description="Seconds after its due time from which a scheduled job that has not been "
        "started makes scheduler_late alert, for all queues and by queue. 0: never.",
    )
    max_error_percent: ByQueue = Field(
        (("*", 5.0),),
        description="Share of failed attempts in percent above which error_rate alerts, for all "
        "queues and by queue. 0: never.",
    )
    min_attempts: Count = Field(
        20, description="Number of attempts below which error_rate does not alert."
    )
    max_dead_letters: ByQueue = Field(
        (("*", 10.0),),
        description="Number of new dead letters from which dead_letters_growing alerts, for all "
        "queues and by queue. 0: never.",
    )
    window: Seconds = Field(
        timedelta(minutes=5),
        description="Seconds over which error_rate and dead_letters_growing count; whole minutes.",
    )
    max_clock_skew: Seconds = Field(
        timedelta(seconds=2),
        description="Seconds by which clocks may differ before clock_skew alerts.",
    )
    for_seconds: ByRule = Field(
        (
            ("*", 60.0),
            ("worker_crashed", 0.0),
            ("worker_silent", 30.0),
            ("endpoint_disabled", 0.0),
            ("connection_paused", 0.0),
            ("dead_letters_growing", 0.0),
            ("breaker_open", 900.0),
        ),
        description="Seconds for which a problem must last before an alert, for all rules and by "
        "rule.",
    )
    hold_seconds: ByRule = Field(
        (("*", 300.0),),
        description="Seconds for which a problem must be absent before its alert is over, for all "
        "rules and by rule: against alerts that come and go.",
    )
    repeat_seconds: ByRule = Field(
        (("*", 14_400.0),),
        description="Seconds after which an alert that is not over is sent again, for all rules "
        "and by rule. 0: never.",
    )
    webhook_url: HttpUrl | None = Field(
        None,
        description="URL that gets alerts as signed webhooks. It may be in a private network.",
    )
    webhook_secret: SigningSecret | None = Field(
        None, description="Signing secret of ALERT_WEBHOOK_URL (Standard Webhooks)."
    )
    alertmanager_url: HttpUrl | None = Field(
        None, description="Address of an Alertmanager with API v2, like http://host:9093."
    )
    slack_url: HttpUrl | None = Field(
        None,
        description="Incoming webhook of Slack, or of a chat that takes the same JSON "
        "(Mattermost, Rocket.Chat, Discord with /slack).",
    )
    email_to: Recipients = Field(
        (), description="Addresses that get alerts by e-mail, through SMTP_URL; comma-separated."
    )
    email_from: Sender | None = Field(
        None, description="Sender of alerts by e-mail. Default: EMAIL_FROM."
    )

    heartbeat_url: HttpUrl | None = Field(
        None,
        description="URL that gets a GET request after each look of the monitor. A service outside "
        "can alert when these requests stop.",
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        if (self.webhook_url is None) != (self.webhook_secret is None):
            missing, given = "ALERT_WEBHOOK_SECRET", "ALERT_WEBHOOK_URL"
            if self.webhook_url is None:
                missing, given = given, missing
            yield missing, f"expected {missing} to be set, because {given} is set, got nothing"

    def is_on(self, rule: str) -> bool:
        """Whether a rule is checked."""
        return rule not in self.rules_off
