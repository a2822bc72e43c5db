"""Retry policies made from the variables."""

from __future__ import annotations

from datetime import timedelta

import pytest

from formrelay.core.retry import Exponential, Linear, Schedule
from tests.config.loading import line, load


@pytest.mark.parametrize(
    ("environ", "backoff"),
    [
        ({}, Exponential(timedelta(seconds=1), timedelta(seconds=60))),
        (
            {"SUBMISSION_RETRY_BASE_SECONDS": "2", "SUBMISSION_RETRY_CAP_SECONDS": "9"},
            Exponential(timedelta(seconds=2), timedelta(seconds=9)),
        ),
        (
            {"SUBMISSION_RETRY_BACKOFF": "linear", "SUBMISSION_RETRY_BASE_SECONDS": "2"},
            Linear(timedelta(seconds=2), timedelta(seconds=60)),
        ),
        ({"SUBMISSION_RETRY_DELAYS": "0, 1.5"}, Schedule((timedelta(0), timedelta(seconds=1.5)))),
        (
            {"SUBMISSION_RETRY_DELAYS": "0,5", "SUBMISSION_RETRY_BACKOFF": "schedule"},
            Schedule((timedelta(0), timedelta(seconds=5))),
        ),
    ],
)
def test_the_retry_variables_define_the_policy(environ: dict[str, str], backoff: object) -> None:
    assert load(**environ).submissions.policy().backoff == backoff


def test_base_and_cap_are_accepted_where_they_count() -> None:
    base = {"RETRY_BACKOFF": "linear", "RETRY_BASE_SECONDS": "2", "RETRY_CAP_SECONDS": "9"}
    for prefix, section in (("EMAIL_", "emails"), ("WEBHOOK_", "webhooks")):
        settings = load(**{prefix + name: value for name, value in base.items()})
        assert getattr(settings, section).policy().backoff == Linear(
            timedelta(seconds=2), timedelta(seconds=9)
        )


def test_max_attempts_is_one_more_than_max_retries() -> None:
    settings = load(EMAIL_MAX_RETRIES="0", EMAIL_RETRY_JITTER="0.5")
    assert settings.emails.policy().max_attempts == 1
    assert settings.emails.policy().jitter == 0.5
    assert settings.submissions.policy().max_attempts == 3


def test_emails_have_nine_attempts_over_32_hours() -> None:
    policy = load().emails.policy()
    assert policy.max_attempts == 9
    minutes = [0, 5, 15, 30, 60, 120, 240, 480, 960]
    assert policy.backoff == Schedule(tuple(timedelta(minutes=n) for n in minutes))
    assert policy.unavailable_backoff == Exponential()  # seconds, not minutes


def test_webhooks_have_seven_attempts_by_default() -> None:
    policy = load().webhooks.policy()
    assert policy.max_attempts == 7
    delays = [0, 30, 120, 600, 3600, 21600, 86400]
    assert policy.backoff == Schedule(tuple(timedelta(seconds=n) for n in delays))
    assert isinstance(load(WEBHOOK_RETRY_BACKOFF="linear").webhooks.policy().backoff, Linear)


def test_an_unavailable_sink_uses_no_attempts_where_its_queue_pauses() -> None:
    settings = load()
    counted = {
        name: getattr(settings, name).policy().count_unavailable
        for name in ("events", "submissions", "partials", "webhooks", "emails", "sheets")
    }
    assert [name for name, counts in counted.items() if not counts] == [
        "events",
        "submissions",
        "partials",
        "emails",
        "sheets",
    ]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"EMAIL_RETRY_BACKOFF": "linear", "EMAIL_RETRY_DELAYS": "0,1"},
            "expected EMAIL_RETRY_BACKOFF to be 'schedule', because EMAIL_RETRY_DELAYS is set,"
            " got 'linear': drop one of the two",
        ),
        (
            {"WEBHOOK_RETRY_BACKOFF": "exponential", "WEBHOOK_RETRY_DELAYS": "0,1"},
            "expected WEBHOOK_RETRY_BACKOFF to be 'schedule'",
        ),
        ({"EVENT_RETRY_BACKOFF": "schedule"}, "expected EVENT_RETRY_DELAYS to be set"),
        (
            {"EMAIL_RETRY_BASE_SECONDS": "2"},
            "expected EMAIL_RETRY_BASE_SECONDS to be unset, because EMAIL_RETRY_BACKOFF is"
            " 'schedule', which does not use it",
        ),
        (
            {"WEBHOOK_RETRY_BACKOFF": "Schedule", "WEBHOOK_RETRY_CAP_SECONDS": "9"},
            "expected WEBHOOK_RETRY_CAP_SECONDS to be unset",
        ),
        (
            {"EVENT_RETRY_DELAYS": "0,5", "EVENT_RETRY_BASE_SECONDS": "9"},
            "expected EVENT_RETRY_BASE_SECONDS to be unset",
        ),
    ],
)
def test_contradicting_retry_variables_are_an_error(environ: dict[str, str], said: str) -> None:
    assert said in line(**environ)
