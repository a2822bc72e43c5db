"""``jobs show`` and ``dlq show`` tell the progress of a job, on each broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.actors.emails.conftest import MailServer, server
from tests.ops.shell import Shell
from tests.support.brokers import BROKERS_AND_STATE
from tests.support.waiting import wait_until

__all__ = ["server"]


def _shell(tmp_path: Path, server: MailServer, **env: str) -> Shell:
    return Shell(
        tmp_path,
        SMTP_URL=f"smtp+none://127.0.0.1:{server.port}",
        EMAIL_FROM="forms@sender.example",
        **{"EMAIL_MAX_RETRIES": "0", **env},
    )


def _send(shell: Shell, server: MailServer) -> str:
    """Send an e-mail to two recipients, one of whom is deferred; return the job's id."""
    email = {"subject": "Hello", "template": "digest", "data": {"period": "May", "forms": []}}
    server.answers["ben@two.example"] = ["451 4.7.1 later"]
    email["to"] = ["ann@one.example", "ben@two.example"]
    return shell("send", "send_email", json.dumps(email)).stdout.strip()


def _refused(shell: Shell, server: MailServer) -> str:
    """As :func:`_send`, until the job is dead-lettered."""
    id = _send(shell, server)
    if "RABBITMQ_URL" not in shell.env:  # RabbitMQ shows dead letters only
        assert json.loads(shell("jobs", "show", id).stdout)["progress"] is None
    with shell.worker("emails"):
        wait_until(lambda: shell.queue("emails")["dead"] == 1, every=0.3)
    return id


@pytest.mark.parametrize("url", BROKERS_AND_STATE)
def test_a_dead_letter_tells_its_recipients(
    request: pytest.FixtureRequest, tmp_path: Path, server: MailServer, url: str, redis_url: str
) -> None:
    name = url.removesuffix("_url")
    variables = {"BROKER": name, url.upper(): request.getfixturevalue(url)}
    shell = _shell(tmp_path, server, STATE_URL=redis_url, **variables)
    id = _refused(shell, server)
    for command in (["jobs", "show", id, "--json"], ["dlq", "show", id]):
        shown = shell(*command).stdout
        progress = json.loads(shown)["progress"]
        assert progress["text"] == "1 of 2 recipients accepted, 1 deferred"
        assert "@" not in json.dumps(progress)


@pytest.mark.redis
@pytest.mark.rabbitmq
def test_rabbitmq_tells_the_progress_of_an_email_whose_job_it_cannot_show(
    tmp_path: Path, server: MailServer, rabbitmq_url: str, redis_url: str
) -> None:
    variables = {"BROKER": "rabbitmq", "RABBITMQ_URL": rabbitmq_url, "STATE_URL": redis_url}
    retries = {"EMAIL_MAX_RETRIES": "1", "EMAIL_RETRY_DELAYS": "0,3600"}
    shell = _shell(tmp_path, server, **variables, **retries)
    id = _send(shell, server)
    assert "not available on this broker" in shell("jobs", "show", id, status=1).stderr
    done = {"to": ["cat@three.example"], "subject": "Hello", "template": "digest"}
    done["data"] = {"period": "May", "forms": []}
    done_id = shell("send", "send_email", json.dumps(done)).stdout.strip()
    with shell.worker("emails"):
        wait_until(lambda: len(server.accepted) == 2)
    of_done = json.loads(shell("jobs", "show", done_id).stdout)
    assert of_done["progress"]["text"] == "1 of 1 recipients accepted"
    found = json.loads(shell("jobs", "show", id).stdout)
    assert found.pop("caused")["jobs"] == []
    assert found == {
        "id": id,
        "state": None,
        "progress": {
            "text": "1 of 2 recipients accepted, 1 deferred",
            "what": "recipients",
            "total": 2,
            "counts": {
                **dict.fromkeys(("refused", "unknown", "sending", "waiting"), 0),
                "accepted": 1,
                "deferred": 1,
            },
            "parts": [],
            "attempts": 1,
        },
    }


@pytest.mark.rabbitmq
def test_without_a_shared_store_the_progress_is_not_known(
    tmp_path: Path, server: MailServer, rabbitmq_url: str
) -> None:
    shell = _shell(tmp_path, server, BROKER="rabbitmq", RABBITMQ_URL=rabbitmq_url)
    shown = json.loads(shell("jobs", "show", _refused(shell, server)).stdout)
    assert "not known" in shown["progress"]["text"]
    assert "set STATE_URL to a Redis URL" in shown["progress"]["text"]
