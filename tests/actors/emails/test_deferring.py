"""E-mails that wait: for a limit, for another worker, for the shared store. No attempt is used."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from formrelay.actors.emails.resources import email_resources
from formrelay.actors.emails.schema import EmailJob, email_key
from formrelay.actors.model import Job, Metadata
from formrelay.actors.resources import smtp_throttle
from formrelay.core.errors import NotNow
from formrelay.sinks.smtp.address import parse_mailbox
from formrelay.state import StateRedis, make_journal
from formrelay.state.redis.client import RedisClient
from formrelay.state.suppressions import Suppression, SuppressionReason
from tests.actors.emails.conftest import Mailing, MailServer
from tests.middleware.lines import Lines
from tests.support.waiting import wait_until

ANN, BEN, CAT = "ann@one.example", "ben@two.example", "cat@three.example"


def deferred(lines: Lines) -> list[dict[str, Any]]:
    """The attempts that ended without a result."""
    return [line for line in lines.attempts() if line["outcome"] == "defer"]


def run_until_deferred(
    mailing: Mailing, lines: Lines, text: str, *, accepted: int = 0
) -> dict[str, Any]:
    """Run a worker until it has deferred a job; returns the log line of the attempt.

    Args:
        accepted: number of e-mails that are accepted before.
    """
    mailing.site.start("emails")
    wait_until(lambda: bool(deferred(lines)) and len(mailing.server.accepted) >= accepted)
    mailing.site.stop()
    found = deferred(lines)
    assert all(line["attempt"] == 1 for line in found)
    assert text in found[0]["errorMessage"]
    assert mailing.site.dead("emails") == []
    return found[0]


@pytest.mark.parametrize("name", ["limit_per_minute", "limit_per_day"])
def test_a_limit_of_the_account_pauses_the_queue(
    mailing: Mailing, server: MailServer, lines: Lines, name: str
) -> None:
    mailing.use(**{name: 1})
    for number in range(3):
        mailing.send(subject=f"Hello {number}")
    text = "a limit on e-mails of the account is reached"
    run_until_deferred(mailing, lines, text, accepted=1)
    assert server.recipients == [[ANN]]
    assert smtp_throttle.open_for() > timedelta(seconds=1)
    assert len(deferred(lines)) <= 2  # the jobs in flight; the others stay in the queue


def test_an_email_to_several_recipients_counts_each_of_them_a_day(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    mailing.use(limit_per_day=20)  # two at once
    mailing.send(to=[ANN, BEN])
    mailing.work_off()
    mailing.send(to=[CAT])
    run_until_deferred(mailing, lines, "a limit on e-mails of the account", accepted=1)
    assert server.recipients == [[ANN, BEN]]


@pytest.mark.parametrize("domain", ["One.Example", "Bücher.example."])
def test_a_limit_of_a_domain_holds_up_no_other_domain(
    mailing: Mailing, server: MailServer, lines: Lines, domain: str
) -> None:
    mailing.use(domain_limits=((domain, 1),))
    for number in range(3):
        mailing.send(to=[f"ann@{domain}"], subject=f"Hello {number}")
    mailing.send(to=[BEN])
    mailing.site.start("emails")
    wait_until(lambda: len(deferred(lines)) == 2 and len(server.accepted) == 2)
    mailing.site.stop()
    ascii_domain = domain.lower().strip(".").encode("idna").decode()
    assert sorted(server.recipients) == [[f"ann@{ascii_domain}"], [BEN]]
    assert smtp_throttle.open_for() == timedelta(0)


def test_emails_over_the_limit_of_a_domain_wait_for_their_turns_once(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    mailing.use(domain_limits=(("one.example", 60),))  # 6 at once, then one a second
    for number in range(12):
        mailing.send(subject=f"Hello {number}")
    mailing.work_off()
    assert len(server.accepted) == 12
    waits = Counter(line["jobId"] for line in deferred(lines))
    assert set(waits.values()) <= {1}


def test_a_domain_that_asks_for_less_is_left_alone(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    server.answers[BEN] = ["450 4.7.28 too many messages, try again later"]
    mailing.send(to=[BEN])
    mailing.send(to=[ANN])
    mailing.site.start("emails")
    wait_until(lambda: bool(deferred(lines)) and bool(server.accepted))
    mailing.site.stop()
    assert server.recipients == [[ANN]]
    assert "a domain" in deferred(lines)[0]["errorMessage"]
    assert deferred(lines)[0]["attempt"] == 2  # the refused attempt counts, the wait does not


def test_a_quota_of_the_account_is_waited_for_without_an_attempt(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    server.answers[ANN] = ["550 5.4.5 Daily user sending limit exceeded"]
    mailing.send()
    mailing.send(to=[BEN])
    run_until_deferred(mailing, lines, "a limit on e-mails of the account")
    assert mailing.site.dead("emails") == []
    assert ANN not in [one for each in server.recipients for one in each]


def test_an_attempt_that_was_deferred_counts_once(mailing: Mailing) -> None:
    mailing.use(limit_per_minute=1, domain_limits=(("one.example", 1),))
    recipients = [parse_mailbox(ANN)]
    email_resources().take_limits(recipients, "job 1")
    email_resources().take_limits(recipients, "job 1")  # the server was away in between
    with pytest.raises(NotNow):
        email_resources().take_limits(recipients, "job 2")


def test_an_email_that_another_worker_sends_is_left_to_it(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    resources = email_resources()
    message = mailing.send()
    payload = EmailJob.model_validate(message.kwargs["payload"])
    job = Job(payload, Metadata(), message.message_id, 0, 1)
    run = resources.journal.begin(email_key(job, "emails"), [ANN], lock=timedelta(seconds=60))
    run_until_deferred(mailing, lines, "another worker sends this e-mail")
    assert server.accepted == []
    resources.journal.end(run)
    mailing.work_off()
    assert server.recipients == [[ANN]]


def test_nothing_is_sent_without_the_shared_store(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    client = RedisClient.from_url("redis://127.0.0.1:1/0")
    away = make_journal(StateRedis(client, "127.0.0.1:1"))
    email_resources.made[:] = [replace(email_resources(), journal=away)]
    mailing.send()
    run_until_deferred(mailing, lines, "the shared store failed")
    assert server.accepted == []
    assert smtp_throttle.open_for() > timedelta(seconds=1)


def test_a_mail_server_that_is_away_uses_no_attempt(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    mailing.site.use(
        emails={"sender": "a@b.example"}, smtp={"url": SecretStr("smtp://127.0.0.1:1")}
    )
    mailing.send()
    found = run_until_deferred(mailing, lines, "SMTP server 127.0.0.1:1")
    assert found["retryInSeconds"] < 10  # not the minutes after which a refused e-mail is retried


def test_suppressed_recipients_are_left_out_before_connecting(
    mailing: Mailing, server: MailServer
) -> None:
    email_resources().suppressions.add([Suppression(ANN, SuppressionReason.MANUAL)])
    server.port = 1  # nobody would answer
    mailing.use()
    assert mailing.outcome() == []
    assert server.accepted == []


def test_events_have_no_address_and_are_the_same_at_each_attempt(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["451 4.7.1 greylisted"]
    server.answers[CAT] = ["550 5.1.1 no such user"]
    mailing.outcome(to=[ANN, BEN, CAT], metadata={"formId": "form-1"})
    found = [
        each
        for message in mailing.site.messages("events")
        for each in _events(message["kwargs"]["payload"])
    ]
    by_domain: dict[str, set[tuple[str, ...]]] = {}
    for each in found:
        about = each["properties"]
        assert each["formId"] == "form-1"
        domain = about["domain"]
        identity = (each["eventId"], each["type"], each["occurredAt"], about["status"])
        by_domain.setdefault(domain, set()).add(identity)
    assert {name: {one[1] for one in each} for name, each in by_domain.items()} == {
        "one.example": {"email.sent"},
        "two.example": {"email.sent"},
        "three.example": {"email.bounced"},
    }
    assert all(len(each) == 1 for each in by_domain.values())  # repeated: the same row
    assert all(name not in str(found) for name in ("ann", "ben", "cat@"))


def _events(payload: Any) -> list[dict[str, Any]]:
    return payload if isinstance(payload, list) else [payload]


def test_log_lines_have_counts_and_no_address(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    server.answers[BEN] = ["550 5.7.1 <ben@two.example> relaying denied for ben"]
    mailing.outcome(to=[ANN, BEN])
    (line,) = lines.attempts()
    assert (line["recipients"], line["accepted"], line["refused"]) == (2, 1, 1)
    assert line["template"] == "autoresponse"
    text = "\n".join(each for each in lines.texts if "formrelay" in each)
    assert ANN not in text
    assert BEN not in text
