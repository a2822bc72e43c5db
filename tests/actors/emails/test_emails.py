"""E-mails through a worker into a real SMTP server."""

from __future__ import annotations

from typing import Any

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.core.failure import Reason
from tests.actors.emails.conftest import Mailing, MailServer

ANN, BEN, CAT = "ann@one.example", "ben@two.example", "cat@three.example"


def test_an_email_has_its_headers_and_both_bodies(mailing: Mailing, server: MailServer) -> None:
    assert mailing.outcome(cc=[BEN], bcc=[CAT], replyTo="Help <help@x.example>") == []
    ((sender, recipients, content),) = server.accepted
    (message,) = server.messages
    assert (sender, recipients) == ("forms@sender.example", [ANN, BEN, CAT])
    assert message["From"] == "Forms <forms@sender.example>"
    assert (message["Subject"], message["Cc"], message["Bcc"]) == ("Hello", BEN, None)
    assert b"cat" not in content
    assert message["Reply-To"] == "Help <help@x.example>"
    html, text = message.get_body(["html"]), message.get_body(["plain"])
    assert "We have your answer." in text.get_content()
    assert "We have your answer." in html.get_content()


def test_a_deferred_recipient_alone_is_tried_again(mailing: Mailing, server: MailServer) -> None:
    server.answers[BEN] = ["451 4.7.1 greylisted", "451 4.7.1 greylisted"]
    assert mailing.outcome(to=[ANN, BEN]) == []
    assert server.recipients == [[ANN], [BEN]]
    first, second = server.accepted
    assert first[2] == second[2]  # the same bytes


def test_a_refused_recipient_bounces_alone_and_is_suppressed(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["550 5.1.1 no such user"]
    assert mailing.outcome(to=[ANN, BEN]) == []
    assert mailing.outcome(to=[BEN]) == []
    assert server.recipients == [[ANN]]


def test_a_refusal_by_policy_is_a_dead_letter_that_can_be_replayed(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["550 5.7.1 relaying denied"]
    (letter,) = mailing.outcome(to=[ANN, BEN])
    assert letter.failure.reason is Reason.PERMANENT
    assert "1 of 2 recipients accepted; last reply: 550 5.7.1" in letter.failure.message
    assert "ben" not in letter.failure.message
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [BEN]]
    assert mailing.site.dead("emails") == []


def test_a_retry_for_others_does_not_ask_for_a_refused_recipient_again(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["550 5.7.1 relaying denied", "550 5.7.1 asked again"]
    server.answers[CAT] = ["451 4.7.1 later"]
    (letter,) = mailing.outcome(to=[ANN, BEN, CAT])
    assert "2 of 3 recipients accepted" in letter.failure.message
    assert server.answers[BEN] == ["550 5.7.1 asked again"]


def test_a_dead_letter_after_all_retries_says_who_is_left(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["451 4.7.1 later"] * 9
    (letter,) = mailing.outcome(to=[ANN, BEN])
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert "1 of 2 recipients accepted" in letter.failure.message
    server.answers.clear()
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [BEN]]


def test_an_unknown_outcome_is_sent_once_more(mailing: Mailing, server: MailServer) -> None:
    server.at_dot = [None]
    assert mailing.outcome() == []
    assert server.recipients == [[ANN], [ANN]]
    assert server.accepted[0][2] == server.accepted[1][2]


def test_a_second_unknown_outcome_is_a_dead_letter_whose_replay_sends_again(
    mailing: Mailing, server: MailServer
) -> None:
    server.at_dot = [None, None]
    (letter,) = mailing.outcome()
    assert len(server.accepted) == 2
    assert "may have it" in letter.failure.message
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert len(server.accepted) == 3
    assert mailing.site.dead("emails") == []


def test_an_unknown_outcome_can_be_a_dead_letter_at_once(
    mailing: Mailing, server: MailServer
) -> None:
    mailing.use(unknown_outcome="dead")
    server.at_dot = [None]
    (letter,) = mailing.outcome()
    assert len(server.accepted) == 1
    assert letter.failure.reason is Reason.PERMANENT


def test_autoresponses_are_marked_limited_and_never_sent_to_programs(
    mailing: Mailing, server: MailServer
) -> None:
    mailing.use(autoresponse_limit=2)
    for number in range(4):
        mailing.send(kind="autoresponse", subject=f"Hello {number}")
    mailing.send(kind="autoresponse", to=["no-reply@one.example"])
    mailing.work_off()
    assert server.recipients == [[ANN], [ANN]]
    assert [sender for sender, _, _ in server.accepted] == [
        "<>",
        "<>",
    ]  # aiosmtpd keeps the brackets
    assert server.messages[0]["Auto-Submitted"] == "auto-replied"


def test_autoresponses_are_limited_for_each_recipient(mailing: Mailing, server: MailServer) -> None:
    mailing.use(autoresponse_limit=1)
    for number in range(3):
        to = [f"new-{number}@two.example", "ann@one.example", "ben@one.example"]
        mailing.send(kind="autoresponse", to=to)
    mailing.work_off()
    found = sorted(each for recipients in server.recipients for each in recipients)
    assert found == [
        "ann@one.example",
        "ben@one.example",
        *(f"new-{n}@two.example" for n in range(3)),
    ]


def test_another_spelling_of_an_address_is_no_way_around_the_limit(
    mailing: Mailing, server: MailServer
) -> None:
    mailing.use(autoresponse_limit=2)
    for local in ("ann", "Ann+1", "ann+2", '"ann"'):
        mailing.send(kind="autoresponse", to=[f"{local}@one.example"])
    mailing.work_off()
    assert len(server.accepted) == 2


def test_a_retried_autoresponse_counts_once(mailing: Mailing, server: MailServer) -> None:
    mailing.use(autoresponse_limit=1)
    server.answers[ANN] = ["451 4.7.1 greylisted"]
    assert mailing.outcome(kind="autoresponse") == []
    assert server.recipients == [[ANN]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": []}, "at least 1 item"),
        ({"to": ["ann"]}, "without '@'"),
        ({"subject": "a\nBcc: x@y.z"}, "control characters"),
        ({"kind": "list"}, "expected unsubscribeUrl"),
        ({"template": "../x"}, "pattern"),
        ({"attachments": [{"filename": "a"}]}, "either path or url"),
    ],
)
def test_a_bad_job_is_refused_when_it_is_sent(
    mailing: Mailing, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        mailing.send(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "other"}, "expected one of the templates autoresponse"),
        ({"data": {}}, "expected data with every value"),
        ({"from": "boss@else.example"}, "expected from to be one of EMAIL_ALLOWED_FROM"),
        ({"attachments": [{"filename": "a.txt", "path": "a.txt"}]}, "EMAIL_ATTACHMENTS_FOLDER"),
    ],
)
def test_a_job_that_no_email_can_be_made_of_is_a_dead_letter(
    mailing: Mailing, server: MailServer, changes: dict[str, Any], message: str
) -> None:
    (letter,) = mailing.outcome(**changes)
    assert letter.failure.reason is Reason.INVALID
    assert message in letter.failure.message
    assert server.accepted == []
