"""Reports about e-mails that were sent: what they suppress, and which do not count."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from formrelay.actors.emails import suppress
from formrelay.actors.emails.report_handler import ReportHandler
from formrelay.core.errors import BrokerError
from formrelay.state import make_bounce_rates, make_journal, make_suppressions
from formrelay.state.suppressions import SuppressionReason
from tests.actors.emails.conftest import Mailing, MailServer

CORPUS = Path(__file__).parents[2] / "sinks" / "mailbox" / "corpus"
ID = b"0123456789abcdef0123456789abcdef"
ANN = "ann@gone.example"


class Reporting:
    """Sends e-mails, and handles reports about them."""

    def __init__(self, mailing: Mailing, server: MailServer) -> None:
        self.mailing, self.server = mailing, server
        state = mailing.site.broker.state
        self.suppressions, self.journal = make_suppressions(state), make_journal(state)
        self.handler = ReportHandler(self.journal, self.suppressions, make_bounce_rates(state))

    def send(self, *to: str, **changes: Any) -> bytes:
        """Send an e-mail; returns its id."""
        self.mailing.send(to=list(to), metadata={"formId": "form_1"}, **changes)
        self.mailing.work_off()
        return str(self.server.messages[-1]["Message-ID"])[1:33].encode()

    def handle(self, name: str, id: bytes, **changed: dict[str, str]) -> str:
        data = (CORPUS / f"{name}.eml").read_bytes().replace(ID, id)
        for old, new in changed.get("texts", {}).items():
            data = data.replace(old.encode(), new.encode())
        return self.handler.handle(data)

    def reason(self, address: str = ANN) -> SuppressionReason | None:
        entry = self.suppressions.find([address]).get(address)
        return None if entry is None else entry.reason

    def events(self, kind: str) -> list[dict[str, Any]]:
        messages = self.mailing.site.messages("events")
        events = [each for message in messages for each in message["kwargs"]["payload"]]
        return [each for each in events if each["type"] == kind]


@pytest.fixture
def reporting(mailing: Mailing, server: MailServer) -> Reporting:
    return Reporting(mailing, server)


def test_a_bounce_suppresses_its_address(reporting: Reporting) -> None:
    id = reporting.send("Ann <Ann@Gone.example>", subject="one")
    assert reporting.handle("google_no_such_user", id) == "bounces"
    assert reporting.reason() is SuppressionReason.BOUNCED
    (event,) = reporting.events("email.bounced")
    assert (event["formId"], event["properties"]["status"]) == ("form_1", "5.1.1")
    assert event["properties"]["domain"] == "gone.example"
    assert "ann" not in str(event).lower()
    sent = len(reporting.server.accepted)
    reporting.send(ANN, subject="two")
    assert len(reporting.server.accepted) == sent


def test_a_report_counts_once(reporting: Reporting) -> None:
    id = reporting.send(ANN)
    assert reporting.handle("exim_old", id) == "bounces"
    assert reporting.handle("exim_old", id) == "repeated"
    assert reporting.suppressions.find([ANN])[ANN].count == 1


def test_a_report_that_was_interrupted_counts_once(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = reporting.send(ANN)

    def fail(*_: object) -> None:
        raise BrokerError

    with monkeypatch.context() as patched:
        patched.setattr(type(reporting.journal), "mark", fail)
        with pytest.raises(BrokerError):
            reporting.handle("google_over_quota", id)
    for _ in range(3):
        reporting.handle("google_over_quota", id)
    assert reporting.reason() is None  # one e-mail, one soft bounce
    assert len({each["eventId"] for each in reporting.events("email.bounced")}) == 1


def test_full_mailboxes_are_suppressed_after_several_emails(reporting: Reporting) -> None:
    for subject in ("one", "two"):
        reporting.handle("google_over_quota", reporting.send(ANN, subject=subject))
    assert reporting.reason() is None
    reporting.handle("google_over_quota", reporting.send(ANN, subject="three"))
    assert reporting.reason() is SuppressionReason.FULL


def test_a_policy_suppresses_nobody(reporting: Reporting) -> None:
    assert reporting.handle("microsoft_policy", reporting.send(ANN)) == "bounces"
    assert reporting.reason() is None
    assert len(reporting.events("email.bounced")) == 1


def test_a_bounce_names_the_id_that_the_provider_gave_the_email(reporting: Reporting) -> None:
    given = b"0102018f0c4d7b2a-6f0d2a51-1b0e-4f5e-9a06-2d6b0f8a7c11-000000"
    reporting.server.at_dot = ["250 Ok " + given.decode()]
    reporting.send(ANN)
    other = given.replace(b"2a51", b"2a52")
    assert reporting.handle("ses_no_such_user", other) == "unknown"
    assert reporting.handle("ses_no_such_user", given) == "bounces"
    assert reporting.handle("ses_no_such_user", given) == "repeated"
    assert reporting.reason() is SuppressionReason.BOUNCED
    (event,) = reporting.events("email.bounced")
    assert event["formId"] == "form_1"


def test_a_complaint_suppresses_its_address(reporting: Reporting) -> None:
    id = reporting.send("ann@yahoo.example")
    assert reporting.handle("yahoo_complaint", id) == "complaints"
    assert reporting.reason("ann@yahoo.example") is SuppressionReason.COMPLAINT
    assert len(reporting.events("email.complained")) == 1


def test_each_recipient_of_a_bounce_has_its_own_result(reporting: Reporting) -> None:
    id = reporting.send("ann+list@gone.example", "ben@full.example")
    assert reporting.handle("postfix_no_such_user", id) == "bounces"
    assert reporting.reason("ann+list@gone.example") is SuppressionReason.BOUNCED
    assert reporting.reason("ben@full.example") is None


def test_forged_reports_suppress_nobody(
    reporting: Reporting, caplog: pytest.LogCaptureFixture
) -> None:
    id = reporting.send(ANN)
    with caplog.at_level(logging.INFO, "formrelay"):
        assert reporting.handle("google_no_such_user", ID) == "unknown"  # no e-mail of ours
        other = {"texts": {ANN: "boss@gone.example"}}  # an e-mail that went to another address
        assert reporting.handle("google_no_such_user", id, **other) == "unknown"
    assert reporting.reason() is None
    assert reporting.reason("boss@gone.example") is None
    assert reporting.events("email.bounced") == []
    assert "unknown report" in caplog.text
    assert not any("@" in str(vars(record)) for record in caplog.records)


def test_other_messages_change_nothing(reporting: Reporting) -> None:
    id = reporting.send(ANN)
    assert reporting.handle("google_delayed", id) == "ignored"
    assert reporting.handle("out_of_office_google", id) == "ignored"
    assert reporting.handle("a_person", id) == "unreadable"
    assert reporting.suppressions.count() == 0


def test_an_outage_of_a_domain_does_not_suppress_all_its_addresses(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(suppress, "MIN_BOUNCES", 1)
    addresses = [f"user{number}@gone.example" for number in range(15)]
    id = reporting.send(*addresses)
    for address in (*addresses[:4], addresses[0]):  # the last report comes again
        texts = {ANN: address, "<g1.": f"<{address[:5]}."}
        handled = reporting.handle("google_no_such_user", id, texts=texts)
    assert handled == "repeated"
    # More than a fifth of 15 is too many.
    reasons = [reporting.reason(each) for each in addresses]
    assert reasons == [SuppressionReason.BOUNCED] * 3 + [None] * 12
    assert "too many recipients of a domain do not exist" in caplog.text


def test_an_outage_that_shows_at_once_suppresses_few(
    reporting: Reporting, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = [f"user{number}@gone.example" for number in range(30)]
    for address in addresses:
        reporting.server.answers[address] = ["550 5.1.1 no such user"]
    reporting.mailing.outcome(to=addresses)
    reasons = [reporting.reason(each) for each in addresses]
    assert reasons == [SuppressionReason.BOUNCED] * 20 + [None] * 10
    # Those of another domain are suppressed nevertheless.
    reporting.server.answers["x@other.example"] = ["550 5.1.1 no such user"]
    reporting.mailing.outcome(to=["x@other.example"])
    assert reporting.reason("x@other.example") is SuppressionReason.BOUNCED
    assert caplog.text.count("too many recipients of a domain do not exist") == 10


@pytest.mark.parametrize("number", [0, 301])
def test_an_email_has_a_limited_number_of_reports(reporting: Reporting, number: int) -> None:
    id = reporting.send(ANN)
    reporting.journal.mark(id.decode(), {f"report {n}": "bounce" for n in range(number)})
    expected = "unknown" if number else "bounces"
    assert reporting.handle("google_no_such_user", id) == expected
