"""``formrelay sheets connections``, and what workers and doctor say about Google Sheets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.ops.shell import Shell
from tests.support.command import run
from tests.support.waiting import wait_until

CLIENT = {"SHEETS_OAUTH_CLIENT_ID": "client", "SHEETS_OAUTH_CLIENT_SECRET": "the-secret"}
TOKENS = {"refresh_token": "1//the-refresh-token", "scope": "sheets", "expires_in": 3600}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, STATE_KEY=Fernet.generate_key().decode(), **CLIENT)


def test_a_connection_is_added_paused_resumed_and_removed(shell: Shell, tmp_path: Path) -> None:
    sheets = ("sheets", "connections")
    assert shell(*sheets).stdout.strip().endswith("no connections")
    assert shell.json(*sheets) == []
    (tmp_path / "ann.json").write_text(json.dumps(TOKENS))
    assert shell(*sheets, "add", "ann", "ann.json").stdout == "added ann\n"
    shell(*sheets, "add", "bob", stdin=json.dumps({"refresh_token": "1//bob"}))
    shell(*sheets, "pause", "ann", "--cause", "she asked for it")
    found = shell.json(*sheets, status=1)
    assert shell.json(*sheets, "list", status=1) == found
    assert [(each["id"], each["state"], each["cause"]) for each in found] == [
        ("ann", "paused", "she asked for it"),
        ("bob", "active", None),
    ]
    assert "the-refresh-token" not in json.dumps(found)
    assert found[0]["scope"] == "sheets"
    shell(*sheets, "resume", "ann")
    assert shell.json(*sheets, "reencrypt") == {"reencrypted": 2}
    shell(*sheets, "pause", "bob")
    shell(*sheets, "add", "bob", "-", stdin=json.dumps(TOKENS))  # a new consent
    assert shell.json(*sheets, "remove", "ann") == {"removed": "ann"}
    ((id, state),) = [(each["id"], each["state"]) for each in shell.json(*sheets)]
    assert (id, state) == ("bob", "active")
    log = [(each["action"].split()[-1], each["target"]) for each in shell.json("audit")]
    assert log[::-1] == [
        *(("add", "ann"), ("add", "bob"), ("pause", "ann"), ("resume", "ann")),
        *(("pause", "bob"), ("add", "bob"), ("remove", "ann")),
    ]
    for command in ("resume", "pause", "remove"):
        assert "there is no connection 'x'" in shell(*sheets, command, "x", status=1).stderr


def test_a_connection_is_found_by_a_unique_prefix_and_removed_after_a_question(
    shell: Shell,
) -> None:
    sheets = ("sheets", "connections")
    for id in ("ann-1", "ann-2", "bob"):
        shell(*sheets, "add", id, stdin=json.dumps(TOKENS))
    for command in ("pause", "resume", "remove"):
        several = shell(*sheets, command, "ann", status=2).stderr
        assert "expected the id of one connection, 'ann' matches several: ann-" in several
    assert shell(*sheets, "pause", "ann-2").stdout == "paused ann-2\n"
    assert shell(*sheets, "resume", "b").stdout == "resumed bob\n"
    status, shown = shell.on_terminal(*sheets, "remove", "b", keys=b"n\n")
    assert "Remove the connection 'bob' and its tokens? [y/N]" in shown
    assert status == 1
    assert len(shell.json(*sheets, status=1)) == 3
    assert shell.on_terminal(*sheets, "remove", "b", keys=b"y\n")[0] == 0
    assert len(shell.json(*sheets, status=1)) == 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected a JSON object with refresh_token"),
        ("[1]", "expected a JSON object with refresh_token"),
        ('{"access_token": "hunter2"}', "prompt=consent"),
        ('{"refresh_token": "hunter2\\n"}', "expected refresh_token to be printable text"),
        ('{"refresh_token": "hunter2", "expiry_date": 1e300}', "expected expiry_date"),
    ],
)
def test_bad_tokens_are_refused_without_quoting_them(shell: Shell, text: str, error: str) -> None:
    done = shell("sheets", "connections", "add", "ann", stdin=text, status=2)
    assert error in done.stderr
    assert "hunter2" not in done.stderr


def test_connections_need_a_shared_store_and_a_key(tmp_path: Path) -> None:
    memory = {"BROKER": "embedded", "STATE_URL": "memory://"}
    done = run("sheets", "connections", cwd=tmp_path, env=memory)
    assert (done.returncode, done.stdout) == (1, "")
    assert "set STATE_URL to a Redis URL" in done.stderr
    done = run("sheets", "connections", cwd=tmp_path, env={"BROKER": "embedded"})
    assert done.returncode == 2
    assert "STATE_KEY" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({}, "expected SHEETS_SERVICE_ACCOUNT_FILE, or SHEETS_OAUTH_CLIENT_ID"),
        (CLIENT, "STATE_KEY"),
        ({"SHEETS_OAUTH_CLIENT_ID": "client"}, "expected SHEETS_OAUTH_CLIENT_SECRET to be set"),
        ({"SHEETS_SERVICE_ACCOUNT": "{}"}, "be the JSON key of a service account"),
        (
            {"SHEETS_SERVICE_ACCOUNT": '{"type": "service_account"}'},
            "expected the key of the service account to be",
        ),
        (CLIENT | {"SHEETS_API_URL": "http://sheets.example"}, "http:// on this machine"),
    ],
    ids=["nothing", "no key", "half a client", "no account", "half an account", "plain http"],
)
def test_a_worker_that_cannot_work_is_refused_in_one_line(
    tmp_path: Path, env: dict[str, str], error: str
) -> None:
    base = {"BROKER": "embedded", "CLICKHOUSE_URL": "http://127.0.0.1:1"}
    done = run("worker", "-q", "sheets", cwd=tmp_path, env=base | env)
    assert done.returncode == 2
    assert error in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_worker_without_an_account_leaves_the_queue_alone(tmp_path: Path) -> None:
    shell = Shell(tmp_path, CLICKHOUSE_URL="http://127.0.0.1:1")
    job = {"spreadsheetId": "book", "range": "Answers", "values": [[1]]}
    shell("send", "update_sheet", json.dumps(job))
    with shell.worker() as process:
        shell.send("https://127.0.0.1:1/")  # refused: dead-lettered at once
        wait_until(lambda: shell.queue("webhooks")["dead"] == 1, timeout=60)
        assert process.poll() is None
    assert shell.queue("sheets")["waiting"] == 1
    said = (tmp_path / "worker.log").read_text()
    assert said.count("sheets are not updated: no Google account is configured") == 1


def findings(shell: Shell, status: int) -> list[tuple[str, str]]:
    found: list[dict[str, Any]] = shell.json("doctor", status=status)
    return [(each["state"], each["says"]) for each in found if each["what"] == "sheets"]


def test_doctor_tells_paused_and_unreadable_connections(shell: Shell, api_url: str) -> None:
    shell.env["API_URL"] = api_url
    for name in ("ann", "bob"):
        shell("sheets", "connections", "add", name, stdin=json.dumps(TOKENS))
    assert findings(shell, 0)[-1] == ("ok", "2 connections are stored")
    shell("sheets", "connections", "pause", "ann")
    says = "connection ann is paused: paused by an operator; "
    assert any(state == "bad" and each.startswith(says) for state, each in findings(shell, 1))
    shell.env["STATE_KEY"] = Fernet.generate_key().decode()
    says = "no key of STATE_KEY decrypts the tokens of connection bob"
    assert any(each[1].startswith(says) for each in findings(shell, 1))
    assert findings(Shell(shell.folder, API_URL=api_url), 0)[0][0] == "weak"
