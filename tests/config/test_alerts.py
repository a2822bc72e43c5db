"""The variables of alerts: numbers for all queues or rules, and others by name."""

from __future__ import annotations

import pytest

from formrelay.config.alerts import number_of
from formrelay.config.types import text_of
from tests.config.loading import line, load


def test_a_queue_has_its_own_number_or_that_of_all_others() -> None:
    found = load(ALERT_MAX_WAITING="10, events=500,calm=0").alerts.max_waiting
    assert [number_of(found, queue) for queue in ("events", "calm", "webhooks")] == [500, 0, 10]
    assert text_of(found) == "10,events=500,calm=0"
    only = load(ALERT_MAX_WAITING="events=500").alerts.max_waiting
    assert number_of(only, "webhooks") == 0


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        *(
            ("ALERT_MAX_WAITING", text, "a number for all queues, and others by queue")
            for text in ("many", "-1", "events=", "=5", "5,", "events=x", "nan")
        ),
        ("ALERT_MAX_WAITING", "5,6", "have one number for all others, got two"),
        ("ALERT_MAX_WAITING", "a=5,a=6", "have 'a' once, got two"),
        ("ALERT_FOR_SECONDS", "5,foo=6", "name rules of alerts, got 'foo': the rules are broker_"),
        ("ALERT_RULES_OFF", "foo", "name rules of alerts, got 'foo'"),
        ("ALERT_EMAIL_TO", "ops", "be addresses like ops@example.com"),
        ("ALERT_WEBHOOK_URL", "https://a.example", "ALERT_WEBHOOK_SECRET to be set"),
        ("ALERT_WEBHOOK_SECRET", "text", "ALERT_WEBHOOK_URL to be set"),
        ("ALERT_SLACK_URL", "hooks.example", "a URL that starts with http:// or https://"),
    ],
)
def test_a_wrong_value_is_refused(variable: str, text: str, says: str) -> None:
    assert says in line(**{variable: text})


def test_a_secret_that_no_receiver_can_use_is_refused_without_showing_it() -> None:
    said = line(ALERT_WEBHOOK_URL="https://a.example", ALERT_WEBHOOK_SECRET="whsk_abcdef")
    assert "signing secret" in said
    assert "abcdef" not in said
