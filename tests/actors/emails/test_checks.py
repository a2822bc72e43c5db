"""What the start of a worker finds wrong with e-mails, before it sends one."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from formrelay.actors.emails.access_token import make_token
from formrelay.actors.emails.checks import problems_of_emails, problems_of_templates
from formrelay.config import get_settings
from formrelay.ops.worker.boot import check_sinks
from formrelay.sinks.oauth import Provider
from tests.actors.conftest import Site
from tests.actors.emails.wrong_templates import WRONG_TEMPLATES, write_wrong_templates
from tests.support.token_endpoint import token_endpoint


def _use(site: Site, **emails: Any) -> None:
    smtp = {"url": SecretStr("smtp+none://127.0.0.1:1")}
    site.use(smtp=smtp, emails={"sender": "forms@sender.example", **emails})


def test_stored_tokens_that_no_key_decrypts_are_refused(site: Site) -> None:
    smtp = {
        "url": SecretStr("smtp://127.0.0.1:1"),
        "user": "forms@sender.example",
        "oauth_provider": "google",
        "oauth_client_id": "client",
        "oauth_refresh_token": SecretStr("R0"),
    }
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    site.use(smtp=smtp, broker={"state_key": SecretStr(old)})
    with token_endpoint() as endpoint:
        token = make_token(get_settings(), Provider("google", endpoint.url))
        assert token is not None
        token(False)
    assert problems_of_emails() == []
    site.use(smtp=smtp, broker={"state_key": SecretStr(new)})
    (line,) = problems_of_emails()
    assert line.startswith("expected STATE_KEY to have the key that encrypted the stored tokens")
    site.use(smtp=smtp, broker={"state_key": SecretStr(f"{new},{old}")})
    assert problems_of_emails() == []


def test_missing_packages_are_one_line_with_the_command(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(site)
    for name in ("css_inline", "jinja2"):
        monkeypatch.setitem(sys.modules, name, None)
    assert problems_of_emails() == [
        "expected all packages of the e-mail worker to be installed, got none of css-inline, "
        "jinja2: pip install 'formrelay[email]'"
    ]
    assert problems_of_templates() == []


def test_a_worker_logs_wrong_templates_and_starts(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_wrong_templates(tmp_path)
    _use(site, templates_folder=tmp_path)
    check_sinks(["emails"])
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == len(WRONG_TEMPLATES)
    for record, beginning in zip(errors, WRONG_TEMPLATES, strict=True):
        assert record.message == "a template cannot be used"
        assert vars(record)["error_message"].startswith(beginning)


def test_the_templates_that_ship_are_right(site: Site) -> None:
    _use(site)
    assert problems_of_templates() == []
