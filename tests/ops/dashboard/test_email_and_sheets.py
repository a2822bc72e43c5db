"""The pages of suppressed addresses and of connections to Google accounts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.fernet import Fernet

from formrelay.actors.emails.suppress import note_sent, suppress_bounced
from formrelay.ops.dashboard.access import Role
from formrelay.ops.dashboard.pages import sheets
from formrelay.sinks.smtp.address import parse_mailbox
from formrelay.state import make_bounce_rates, make_suppressions, make_tokens
from formrelay.state.suppressions import Suppression, SuppressionReason
from formrelay.state.tokens import Tokens
from tests.ops.dashboard.conftest import HOSTILE, ORIGIN, Site
from tests.ops.dashboard.helpers import field, rows

KEY = Fernet.generate_key().decode()


def suppress(site: Site, *addresses: str) -> None:
    reason = SuppressionReason.BOUNCED
    entries = [Suppression(each, reason, None, None, 2, "5.1.1") for each in addresses]
    make_suppressions(site.broker.state).add(entries)


# -- e-mail --------------------------------------------------------------------------------


def test_suppressed_addresses_are_listed_and_removed(site: Site) -> None:
    suppress(site, "ann@one.example", "bob@two.example")
    text = site.page("/email")
    assert "2 suppressed addresses" in text
    assert rows(text)[0].startswith("ann@one.example bounced 0s ago never 2 5.1.1")
    site.post("/email/remove", address="ANN@one.example")
    assert len(rows(site.page("/email"))) == 1
    site.post("/email/remove", address="ann@one.example")
    assert "The address was not suppressed." in site.page("/email")
    log = site.page("/audit")
    assert "domains @one.example" in log
    assert "ann@one" not in log


def test_addresses_are_added_for_a_time(site: Site) -> None:
    site.post("/email/add", addresses="Ann@One.example, bob@two.example\n", **{"for": "week"})
    text = site.page("/email")
    assert "Added 2 of 2." in text
    assert rows(text)[0].startswith("ann@one.example manual 0s ago in 6d 1")
    site.post("/email/add", addresses="not an address")
    text = site.page("/email")
    assert "Nothing was added: expected" in text
    assert "2 suppressed addresses" in text
    site.post("/email/add", addresses=" ")
    assert "Enter 1 to 500 addresses" in site.page("/email")


def test_addresses_are_searched_by_their_first_characters_in_pages(site: Site) -> None:
    suppress(site, *(f"{name}{number:03}@one.example" for name in "ab" for number in range(150)))
    found = site.post("/email/search", prefix="B").text
    assert len(rows(found)) == 100
    assert rows(found)[0].startswith("b000@")
    after = field(found, "after")
    found = site.post("/email/search", prefix="b", after=after).text
    assert len(rows(found)) == 50
    assert "Next page" not in found
    (row,) = rows(site.post("/email/search", prefix="a007@one.example").text)
    assert row.startswith("a007@")
    assert rows(site.post("/email/search", prefix="a007").text) == [row]
    assert "No address matches." in site.post("/email/search", prefix="c").text
    assert "No address matches." in site.post("/email/search", reason="complaint").text
    assert len(rows(site.page("/email?reason=bounced"))) == 100


def test_readers_see_no_whole_address_and_change_nothing(site: Site) -> None:
    suppress(site, "ann@one.example")
    reader = site.with_tokens(Role.READ_ONLY)
    text = reader.get("/email").text
    assert "a…@one.example" in text
    assert "ann@" not in text
    for path in ("/email/search", "/email/add", "/email/remove", "/sheets/change"):
        assert reader.post(path, data={"address": "x"}, headers=ORIGIN).status_code == 403


def test_hostile_input_is_shown_as_text(site: Site) -> None:
    text = site.post("/email/search", prefix=HOSTILE, reason=HOSTILE, after=HOSTILE).text
    assert "<script>alert" not in text
    site.post("/email/add", addresses=HOSTILE)
    assert "<script>alert" not in site.page("/email")


def test_empty_pages_say_what_would_be_here(site: Site) -> None:
    assert "An address that bounces" in site.page("/email")
    assert "No bounces in the last 7 days." in site.page("/email")
    site.broker.state = None
    assert "set STATE_URL to a Redis URL" in site.page("/email")
    assert "set STATE_URL to a Redis URL" in site.page("/sheets")
    assert site.post("/email/add", addresses="a@b.example").status_code == 404


def bounce(site: Site, domain: str, sent: int, bounced: int) -> None:
    """Let e-mails to a domain bounce, as workers do."""
    suppressions, rates = make_suppressions(site.broker.state), make_bounce_rates(site.broker.state)
    at = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    to = [parse_mailbox(f"user{number}@{domain}") for number in range(sent)]
    note_sent(rates, to, at)
    for number, mailbox in enumerate(to[:bounced]):
        suppress_bounced(suppressions, rates, mailbox, "5.1.1", str(number), at)


def test_bounces_are_shown_by_domain_with_the_threshold_and_its_effect(site: Site) -> None:
    bounce(site, "down.example", 50, 21)
    bounce(site, "Large.example", 200, 21)
    bounce(site, "good.example", 5, 0)
    text = site.page("/email")
    _, _, bounces = text.partition("Bounces by domain")
    assert rows(bounces) == [
        "down.example 2026-01-31 09:00 50 21 42.0 % threshold passed addresses are not suppressed",
        "large.example 2026-01-31 09:00 200 21 10.5 % addresses are suppressed",
    ]
    assert "More than 20 bounces, and more than 20 % of an hour’s e-mails" in text
    assert "41 suppressed addresses" in text  # not the 21st of the outage
    assert 'down.example: <a href="#rates">too many addresses bounced' in text
    assert "No bounces in the last 7 days." not in text


# -- Sheets --------------------------------------------------------------------------------


@pytest.fixture
def tokens(site: Site, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    monkeypatch.setattr(sheets, "_state_key", lambda: KEY)
    return make_tokens(site.broker.state, lambda: KEY, site.broker.idempotency_store())


def test_connections_are_listed_paused_and_resumed(site: Site, tokens: Tokens) -> None:
    tokens.consent("ann", "1//secret", access_token="ya29.x", expires_at=datetime.now(UTC))
    tokens.consent("bob", "1//secret2")
    tokens.pause("bob", "the person revoked the access")
    text = site.page("/sheets")
    first, second = rows(text)
    assert "paused" in first
    assert "the person revoked the access" in first
    assert second.startswith("ann google active 0s ago")
    assert "expired" in second
    assert "secret" not in text
    assert "ya29" not in text
    site.post("/sheets/change", id="bob", do="resume")
    site.post("/sheets/change", id="ann", do="pause")
    assert [(each.id, each.cause) for each in tokens.connections()] == [
        ("ann", "paused by local"),
        ("bob", None),
    ]
    site.post("/sheets/change", id="nobody", do="resume")
    assert "Nothing was changed" in site.page("/sheets")
    assert site.page("/audit").count(">sheets connections resume<") == 1


def test_without_connections_the_page_says_what_would_be_here(site: Site, tokens: Tokens) -> None:
    assert "when a person has connected a Google account" in site.page("/sheets")


def test_without_a_key_the_page_says_what_is_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "_state_key", lambda: None)
    assert "STATE_KEY" in site.page("/sheets")
