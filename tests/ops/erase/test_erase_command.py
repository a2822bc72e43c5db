"""``formrelay erase`` as a command, on the embedded broker."""

from __future__ import annotations

import json

from tests.ops.shell import Shell

SUBMISSION = {
    "submissionId": "s1",
    "formId": "f1",
    "status": "completed",
    "submittedAt": "2026-01-01T00:00:00Z",
    "answers": {"q": {"deep": ["write to Ann@Example.com, please"]}},
}
EVENT = {"type": "form.viewed", "formId": "f1"}


def test_a_person_is_erased_after_a_dry_run(shell: Shell) -> None:
    shell("send", "save_submission", json.dumps(SUBMISSION), "--delay", "3600")
    shell("send", "record_events", json.dumps([{**EVENT, "submissionId": "s1"}, EVENT]))
    dry = shell.json("erase", "--email", "ann@example.com", "--dry-run")
    assert (dry["erased"], dry["dry_run"], dry["complete"]) == (1, True, True)
    found = {each["place"]: (each["erased"], each["in_part"]) for each in dry["places"]}
    assert (found["scheduled"], found["waiting"]) == ((1, 0), (0, 0))
    assert "ann" not in json.dumps(dry)
    done = shell("erase", "--submission", "s1")
    assert done.stdout.splitlines()[-1] == "erased: 2"
    assert "not reached by this command:" in done.stderr
    assert "ALTER TABLE events DELETE WHERE submission_id = 's1'" in done.stderr
    assert "waiting jobs                        1       0        1" in done.stdout
    again = shell.json("erase", "--email", "-", stdin="Ann@Example.COM\n")
    assert again["erased"] == 0
    assert again["subject"] == dry["subject"]
    entries = shell("audit", "--json").stdout
    assert "submission s1" in entries
    assert dry["subject"]["digest"] in entries
    assert "example.com" not in entries.lower()


def test_wrong_use_is_refused_and_no_address_is_quoted(shell: Shell) -> None:
    for options in ((), ("--form", "f1", "--submission", "s1"), ("--form", "")):
        assert shell("erase", *options, status=2).stderr
    assert "--email, got none; run" in " ".join(shell("erase", status=2).stderr.split())
    refused = shell("erase", "--email", "annette", status=2).stderr
    assert "expected an address" in refused
    assert "annette" not in refused
    status, shown = shell.on_terminal("erase", "--form", "f1", keys=b"n\n", columns=120)
    assert (status, "nothing was changed" in shown) == (1, True)
