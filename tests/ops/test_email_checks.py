"""What ``formrelay worker`` and ``formrelay doctor`` say about the settings of e-mails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.actors.emails.conftest import MailServer, server
from tests.actors.emails.wrong_templates import WRONG_TEMPLATES, write_wrong_templates
from tests.support.command import run

__all__ = ["server"]

OAUTH = {
    "SMTP_USER": "forms@sender.example",
    "SMTP_OAUTH_CLIENT_ID": "client",
    "SMTP_OAUTH_REFRESH_TOKEN": "R0",
}


def refused(tmp_path: Path, **env: str) -> list[str]:
    """The lines with which a worker refuses to start."""
    base = {
        "BROKER": "embedded",
        "SMTP_URL": "smtp+none://127.0.0.1:1",
        "EMAIL_FROM": "forms@sender.example",
    }
    done = run("worker", "--queue", "emails", cwd=tmp_path, env=base | env)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr.splitlines()


def test_a_worker_tells_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    lines = refused(
        tmp_path,
        STATE_URL="memory://",
        EMAIL_UNKNOWN_OUTCOME="dead",
        EMAIL_FROM="a@b..c",
        EMAIL_ALLOWED_FROM="ok@sender.example,a@b..c,@d..e",
        EMAIL_TEMPLATES_FOLDER="none",
        EMAIL_ATTACHMENTS_FOLDER="none",
        SMTP_CA_FILE="none.pem",
    )
    beginnings = [
        "SMTP_CA_FILE",
        "EMAIL_FROM: ",
        "expected EMAIL_ATTACHMENTS_FOLDER to be a folder",
        "EMAIL_ALLOWED_FROM: ",
        "EMAIL_ALLOWED_FROM: ",
        "expected EMAIL_TEMPLATES_FOLDER to be a folder",
        "expected STATE_URL to be set, because EMAIL_UNKNOWN_OUTCOME is 'dead'",
    ]
    assert len(lines) == len(beginnings)
    for line, beginning in zip(lines, beginnings, strict=True):
        assert beginning in line


def test_a_worker_of_microsoft_needs_a_store_for_its_refresh_tokens(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, STATE_URL="memory://", SMTP_OAUTH_PROVIDER="microsoft", **OAUTH)
    assert "expected STATE_URL to be set, because SMTP_OAUTH_PROVIDER is 'microsoft'" in line


def test_tokens_are_not_stored_without_a_key(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, SMTP_OAUTH_PROVIDER="google", **OAUTH)
    assert "expected STATE_KEY, with which OAuth tokens are encrypted in Redis, got none" in line
    assert "R0" not in line


# -- doctor ----------------------------------------------------------------------------------


def findings(tmp_path: Path, server: MailServer, status: int, **env: str) -> list[tuple[str, str]]:
    base = {
        "BROKER": "embedded",
        "SMTP_URL": f"smtp+none://127.0.0.1:{server.port}",
        "EMAIL_FROM": "Forms <forms@sender.example>",
    }
    done = run("doctor", "--json", cwd=tmp_path, env=base | env)
    assert done.returncode == status, done.stderr
    return [(one["state"], one["says"]) for one in json.loads(done.stdout) if one["what"] == "smtp"]


def test_doctor_tells_wrong_templates_and_settings_and_still_asks_the_server(
    tmp_path: Path, server: MailServer
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    write_wrong_templates(templates)
    wrong = {"EMAIL_TEMPLATES_FOLDER": str(templates), "EMAIL_ATTACHMENTS_FOLDER": "none"}
    found = findings(tmp_path, server, 1, **wrong)
    bad = [says for state, says in found if state == "bad"]
    expected = ["expected EMAIL_ATTACHMENTS_FOLDER to be a folder", *WRONG_TEMPLATES]
    assert len(bad) == len(expected)
    for says, beginning in zip(bad, expected, strict=True):
        assert says.startswith(beginning)
    assert ("ok", f"127.0.0.1:{server.port} answers (no login is configured)") in found


def test_doctor_asks_whether_the_server_takes_the_sender(
    tmp_path: Path, server: MailServer
) -> None:
    asked = []

    async def handle_MAIL(
        smtp: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        asked.append(address)
        return "553 5.7.1 not your address"

    server.handle_MAIL = handle_MAIL  # type: ignore[attr-defined]
    bad = [says for state, says in findings(tmp_path, server, 1) if state == "bad"]
    assert asked == ["forms@sender.example", "<>"]
    assert [says.partition(": 553 5.7.1 not your address; ")[::2] for says in bad] == [
        (
            "the server refuses e-mails from EMAIL_FROM",
            "use an address that the account may send as",
        ),
        (
            "the server refuses autoresponses, which have no return path",
            "set EMAIL_AUTORESPONSE_NULL_SENDER=false",
        ),
    ]
    assert server.accepted == []


def test_doctor_tells_that_the_server_offers_no_encryption(
    tmp_path: Path, server: MailServer
) -> None:
    url = f"smtp://127.0.0.1:{server.port}"
    bad = [says for state, says in findings(tmp_path, server, 1, SMTP_URL=url) if state == "bad"]
    (says,) = bad
    assert says.startswith("tls: ")
    assert "expected it to offer STARTTLS" in says
