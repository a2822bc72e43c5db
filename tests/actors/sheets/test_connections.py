"""Tokens: refreshed for all workers, and one bad connection stops no other."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from formrelay.actors.resources import open_tokens
from formrelay.actors.sheets.resources import sheet_resources
from formrelay.brokers import State
from formrelay.config import get_settings
from tests.actors.sheets.conftest import Sheets, make_due, make_key
from tests.support.waiting import wait_until


@pytest.fixture
def ann(sheets: Sheets) -> Any:
    """The stored connection ``ann``."""
    tokens = open_tokens(get_settings())
    tokens.consent("ann", sheets.refresh_token)
    return tokens


def test_a_stored_connection_is_used_by_its_id(sheets: Sheets, ann: Any) -> None:
    assert sheets.outcome(connectionId="ann") == []
    assert sheets.names() == ["Ann"]
    assert sheets.google.tokens.refreshes == 1


def test_a_token_that_google_refuses_is_refreshed_once(sheets: Sheets, ann: Any) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    ann.consent("ann", sheets.refresh_token, access_token="ya29.old", expires_at=ends)
    assert sheets.outcome(connectionId="ann") == []
    assert sheets.names() == ["Ann"]
    assert sheets.google.tokens.refreshes == 1


def test_a_token_that_is_revoked_right_after_its_refresh_uses_no_attempt(
    sheets: Sheets, ann: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sheets.outcome(connectionId="ann")
    sheets.google.tokens.revoke("ann")
    with caplog.at_level(logging.ERROR):
        sheets.site.start("sheets")
        sheets.send(connectionId="ann", answers={"Name": "Bob"})
        wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
        sheets.site.stop()
    (scheduled,) = sheets.site.broker.inspector.browse("sheets", State.SCHEDULED).entries
    assert scheduled.failure is None
    assert "jobs wait for a connection to Google Sheets" in caplog.text


def test_the_tokens_of_a_job_are_refreshed(sheets: Sheets) -> None:
    access = sheets.google.tokens.new_access("ann")
    both = {"access_token": access, "refresh_token": sheets.refresh_token}
    assert sheets.outcome(auth=both | {"expiry_date": sheets.soon()}) == []
    assert sheets.google.tokens.refreshes == 0  # the access token of the job is still valid
    assert sheets.outcome(auth=both | {"expiry_date": 1000}, answers={"Name": "Bob"}) == []
    assert sheets.names() == ["Ann", "Bob"]


def test_a_job_whose_only_token_has_ended_is_dead_lettered(sheets: Sheets) -> None:
    for auth in ({"access_token": "x", "expiry_date": 1000}, {"access_token": "unknown"}):
        sheets.send(auth=auth)
    sheets.work_off()
    for dead in sheets.site.dead("sheets"):
        assert "nothing to renew it with" in dead.failure.message
        assert dead.failure.attempt == 1
    assert len(sheets.site.dead("sheets")) == 2


def test_a_revoked_connection_waits_alone_and_goes_on_after_consent(
    sheets: Sheets, ann: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ann.consent("bob", sheets.google.tokens.consent("bob"))
    sheets.google.tokens.revoke("ann")
    with caplog.at_level(logging.ERROR):
        sheets.site.start("sheets")
        sheets.send(connectionId="ann")
        wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
        sheets.send(connectionId="bob", answers={"Name": "Bob"})
        wait_until(lambda: sheets.names() == ["Bob"])
        sheets.site.stop()
    assert "pausing connection: its consent has ended" in caplog.text
    (paused,) = [each for each in ann.connections() if each.is_paused]
    assert paused.id == "ann"
    assert "revoked the access" in (paused.cause or "")
    (scheduled,) = sheets.site.broker.inspector.browse("sheets", State.SCHEDULED).entries
    assert scheduled.failure is None  # no attempt was used
    ann.consent("ann", sheets.google.tokens.consent("ann"))
    make_due(sheets)
    sheets.work_off()
    assert sorted(sheets.names()) == ["Ann", "Bob"]
    assert sheets.site.dead("sheets") == []


@pytest.mark.parametrize("change", ["unknown connection", "other key", "wrong client"])
def test_a_connection_that_an_operator_must_mend_waits_alone(
    sheets: Sheets, ann: Any, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    name = "ann"
    match change:
        case "unknown connection":
            name = "nobody"
        case "other key":
            sheets.key = make_key()
            sheets.use()
        case "wrong client":
            sheets.use(oauth_client_secret=SecretStr("wrong"))
            open_tokens(get_settings()).consent("ann", sheets.refresh_token)
    access = sheets.google.tokens.new_access("bob")
    with caplog.at_level(logging.ERROR):
        sheets.site.start("sheets")
        for _ in range(2):
            sheets.send(connectionId=name)
        wait_until(lambda: sheets.site.broker.counts("sheets").waiting == 0)
        sheets.send(auth={"access_token": access}, answers={"Name": "Bob"})
        wait_until(lambda: sheets.names() == ["Bob"])
        wait_until(lambda: sheets.site.broker.counts("sheets").scheduled >= 1)
        wait_until(lambda: "jobs wait for a connection" in caplog.text)
        sheets.site.stop()
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR] == [
        "jobs wait for a connection to Google Sheets"
    ]
    assert sheets.site.dead("sheets") == []


def test_a_service_account_writes_for_jobs_without_a_connection(sheets: Sheets) -> None:
    email, private = add_account(sheets)
    key = {"type": "service_account", "client_email": email, "private_key": private}
    key["token_uri"] = f"{sheets.url}/token"
    sheets.use(
        service_account=SecretStr(json.dumps(key, indent=1)),
        oauth_client_id=None,
        oauth_client_secret=None,
    )
    assert sheets.outcome(auth=None) == []
    assert sheets.outcome(connectionId="service-account", answers={"Name": "Bob"}) == []
    assert sheets.names() == ["Ann", "Bob"]
    assert len(sheets.google.tokens.access) == 1  # one token for both
    resources = sheet_resources()
    assert resources.connections.tokens is None  # no STATE_KEY is needed


def test_a_job_without_a_connection_needs_a_service_account(sheets: Sheets) -> None:
    (dead,) = sheets.outcome(auth=None)
    assert "this worker has no SHEETS_SERVICE_ACCOUNT" in dead.failure.message


def test_no_token_is_logged(sheets: Sheets, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        sheets.outcome()
        sheets.google.tokens.revoke("ann")
        sheets.site.start("sheets")
        sheets.send()
        wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
        sheets.site.stop()
    texts = caplog.text + " ".join(str(vars(record)) for record in caplog.records)
    assert sheets.refresh_token not in texts
    assert "ya29." not in texts


def add_account(sheets: Sheets) -> tuple[str, str]:
    """A service account that may edit the spreadsheet; its address and private key."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    email, key = "rows@project.iam.gserviceaccount.com", rsa.generate_private_key(65537, 2048)
    sheets.google.tokens.keys[email] = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    sheets.google.books["book"].editors = None
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return email, private.decode()
