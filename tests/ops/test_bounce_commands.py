"""``formrelay bounces`` and ``formrelay suppressions``."""

from __future__ import annotations

import json
import mailbox
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.ops.shell import Shell
from tests.sinks.mailbox.imap_server import PASSWORD, ImapServer
from tests.support.certificates import Authority
from tests.support.command import clean_environment, run, start_python
from tests.support.waiting import wait_until

CORPUS = Path(__file__).parents[1] / "sinks" / "mailbox" / "corpus"
REPORT, REPLY = "google_no_such_user", "out_of_office_google"
PERSON = "a_person"

NOTHING = {
    "bounces": 0,
    "complaints": 0,
    "repeated": 0,
    "unknown": 0,
    "ignored": 0,
    "unreadable": 0,
}


def content(name: str) -> bytes:
    return (CORPUS / f"{name}.eml").read_bytes()


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    for part in ("new", "cur", "tmp"):
        (folder / part).mkdir(parents=True)
    for name in (REPORT, REPLY, PERSON):
        (folder / "new" / name).write_bytes(content(name))
    return folder


def test_messages_that_are_no_reports_stay(shell: Shell, maildir: Path) -> None:
    found = shell.json("bounces", "--maildir", str(maildir), status=1)
    assert found == NOTHING | {"unknown": 1, "ignored": 1, "unreadable": 1}
    assert [path.name for path in (maildir / "new").iterdir()] == [PERSON]
    assert {path.name for path in (maildir / "cur").iterdir()} == {f"{REPORT}:2,S", f"{REPLY}:2,S"}
    done = shell("bounces", "--maildir", str(maildir), status=1)
    assert done.stdout == "1 unreadable\n"
    (maildir / "new" / PERSON).unlink()
    assert shell("bounces", "--maildir", str(maildir)).stdout == "no new messages\n"


def test_an_mbox_and_standard_input_are_read(shell: Shell, tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "mbox")
    box.add(content(REPORT))
    box.close()
    done = shell("bounces", "--mbox", "mbox")
    assert done.stdout == "1 unknown\n"
    assert "@" not in done.stderr
    assert shell("bounces", "--mbox", "mbox").stdout == "no new messages\n"
    assert shell("bounces", "-", stdin=content(REPLY).decode()).stdout == "1 ignored\n"
    assert shell("bounces", "-", stdin="\n", status=1).stdout == "1 unreadable\n"


def test_the_mailbox_of_the_settings_is_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ImapServer(authority.server_side("imap"), is_tls=True, capabilities="AUTH=PLAIN")
    server.messages = {1: content(REPORT), 2: content(PERSON)}
    shell = Shell(
        tmp_path,
        EMAIL_IMAP_URL=f"imaps://reports@localhost:{server.port}",
        EMAIL_IMAP_PASSWORD=PASSWORD,
        EMAIL_IMAP_CA_FILE=str(authority.certificate),
    )
    found = shell.json("bounces", status=1)
    server.close()
    assert found == NOTHING | {"unknown": 1, "unreadable": 1}
    assert server.seen == {1}


def test_a_mailbox_without_a_password_uses_the_token_of_the_smtp_server(tmp_path: Path) -> None:
    oauth = {
        "SMTP_OAUTH_PROVIDER": "google",
        "SMTP_OAUTH_CLIENT_ID": "client",
        "STATE_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "EMAIL_IMAP_URL": "imaps://reports@localhost:1",
    }
    said = Shell(tmp_path, **oauth, EMAIL_IMAP_OAUTH_REFRESH_TOKEN="R0")("bounces", status=1)
    assert "the IMAP server failed" in said.stderr  # not: no login
    said = Shell(tmp_path, **oauth)("bounces", status=2)
    assert "SMTP_OAUTH_REFRESH_TOKEN" in said.stderr
    del oauth["SMTP_OAUTH_PROVIDER"]
    said = Shell(tmp_path, **oauth)("bounces", status=2)
    assert "or SMTP_OAUTH_PROVIDER, got no user or no login" in said.stderr


def test_a_mailbox_is_read_again_until_the_command_is_stopped(shell: Shell, maildir: Path) -> None:
    process = start_python(
        *("-m", "formrelay", "bounces", "--maildir", str(maildir), "--every", "0.1s"),
        cwd=shell.folder,
        env=clean_environment(**shell.env),
        log=shell.folder / "bounces.log",
        may_exec=True,
    )
    try:
        wait_until(lambda: (maildir / "cur" / f"{REPLY}:2,S").exists())
        (maildir / "tmp" / "later").write_bytes(content(REPLY))
        (maildir / "tmp" / "later").rename(maildir / "new" / "later")
        wait_until(lambda: (maildir / "cur" / "later:2,S").exists())
        (maildir / "cur").rename(maildir / "away")  # as if the file system were not mounted
        wait_until(lambda: "expected a maildir" in (shell.folder / "bounces.log").read_text())
        (maildir / "away").rename(maildir / "cur")
        (maildir / "new" / "last").write_bytes(content(REPLY))
        wait_until(lambda: (maildir / "cur" / "last:2,S").exists())
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert "1 unreadable" not in (shell.folder / "bounces.log").read_text().splitlines()


def test_a_store_that_is_away_leaves_all_messages(tmp_path: Path, maildir: Path) -> None:
    env = {"BROKER": "embedded", "STATE_URL": "redis://127.0.0.1:1"}
    done = run("bounces", "--maildir", str(maildir), cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert len(list((maildir / "new").iterdir())) == 3
    piped = run("bounces", "-", cwd=tmp_path, env=env, stdin=content(REPORT).decode())
    assert piped.returncode == 75  # the mail server keeps the message
    assert "127.0.0.1:1" in piped.stderr


@pytest.mark.parametrize(
    "arguments",
    [["bounces", "-"], ["suppressions", "list"], ["suppressions", "add", "a@b.example"]],
)
def test_without_a_shared_store_the_commands_refuse(tmp_path: Path, arguments: list[str]) -> None:
    env = {"BROKER": "embedded", "STATE_URL": "memory://"}
    done = run(*arguments, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "set STATE_URL" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "EMAIL_IMAP_URL"),
        (["x"], "expected one of"),
        (["-", "--mbox", "x"], "expected one of"),
        (["-", "--every", "1m"], "expected no --every"),
        (["--mbox", "x", "--every", "soon"], "expected a duration"),
        (["--mbox", "nothing"], "expected an mbox file"),
        (["--maildir", "nothing"], "expected a maildir"),
        (["--maildir", "nothing", "--every", "1m"], "expected a maildir"),
        (["--imap", "https://x"], "expected --imap"),
        (["--imap", "imaps://host"], "expected the user of the mailbox"),
    ],
)
def test_wrong_options_are_explained(shell: Shell, arguments: list[str], expected: str) -> None:
    assert expected in shell("bounces", *arguments, status=2).stderr


def test_suppressions_are_added_listed_and_removed(shell: Shell) -> None:
    assert shell("suppressions", "list").stdout == "no suppressed addresses\n"
    done = shell("suppressions", "add", "Ann@One.example", "ben@two.example", "--expires-in", "30d")
    assert done.stdout == "added: 2 of 2\n"
    assert shell("suppressions", "add", stdin="ann@one.example\n\n").stdout == "added: 0 of 1\n"
    found = shell.json("suppressions", "list")
    assert [(each["address"], each["reason"]) for each in found] == [
        ("ann@one.example", "manual"),
        ("ben@two.example", "manual"),
    ]
    assert found[0]["expires"] is None  # the later end wins
    ends = datetime.fromisoformat(found[1]["expires"])
    assert 29 <= (ends - datetime.now(UTC)).days <= 30
    done = shell("suppressions", "list", "--limit", "1")
    assert "raise --limit above 1" in done.stderr
    assert done.stdout.splitlines()[1].startswith("ann@one.example  manual")
    status, shown = shell.on_terminal("suppressions", "remove", "ann@one.example", keys=b"n\n")
    assert "Allow e-mail to ann@one.example again, and forget why it was suppressed? [y/N]" in shown
    assert status == 1
    assert shell.json("suppressions", "remove", "ANN@one.example") == {"removed": 1, "of": 1}
    assert len(shell.json("suppressions", "list", "--reason", "manual")) == 1
    assert shell.json("suppressions", "list", "--reason", "complaint") == []
    log = shell.json("audit")
    assert [(each["action"], each["target"], each["count"]) for each in log] == [
        ("suppressions remove", "@one.example", 1),
        ("suppressions add", "@one.example", 0),
        ("suppressions add", "@one.example, @two.example", 2),
    ]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_export_is_imported_without_changes(shell: Shell, tmp_path: Path, options: Any) -> None:
    lines = (
        "address,reason,status,expires\n"
        "Jörg@Exämple.example,complaint,,\n"
        '"o\'neil@one.example",bounced,5.1.1,2099-01-31T00:00:00Z\n'
        "plain@one.example\n"
    )
    assert shell("suppressions", "import", "-", stdin=lines).stdout == "added: 3 of 3\n"
    exported = shell("suppressions", "export", *options).stdout
    assert "jörg@xn--exmple-cua.example" in exported
    (tmp_path / "file").write_text(exported)
    assert shell("suppressions", "import", "file").stdout == "added: 0 of 3\n"
    assert shell("suppressions", "export", *options).stdout == exported
    shell("suppressions", "remove", "plain@one.example")
    dry = shell("suppressions", "import", "file", "--dry-run")
    assert dry.stdout == "valid: 3 of 3\n"
    assert shell("suppressions", "import", "file").stdout == "added: 1 of 3\n"
    assert shell("suppressions", "export", *options).stdout == exported


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("secret@@x\nb@two.example\nno address", ["line 1: ", "line 3: ", "nothing was changed"]),
        ("address,reason\na@x.example,because\n", ["line 2: expected a reason"]),
        ("address,since\na@x.example,yesterday\n", ["line 2: expected a time"]),
        ("address,count\na@x.example,many\n", ["line 2: expected a whole number"]),
        ("address,status\na@x.example,bad\n", ["line 2: expected an enhanced status"]),
        ('{"address": 5}\n{"x"\n', ["line 1: expected", "line 2: expected an entry"]),
    ],
)
def test_a_wrong_line_changes_nothing(shell: Shell, text: str, expected: list[str]) -> None:
    done = shell("suppressions", "import", stdin=text, status=2)
    assert all(each in done.stderr for each in expected)
    assert "secret" not in done.stderr
    assert json.loads(shell("suppressions", "list", "--json").stdout) == []


def test_wrong_addresses_change_nothing(shell: Shell) -> None:
    done = shell("suppressions", "add", "a@one.example", "secret@", status=2)
    assert "address 2: " in done.stderr
    assert "secret" not in done.stderr
    assert shell("suppressions", "list").stdout == "no suppressed addresses\n"
