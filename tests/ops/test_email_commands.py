"""``formrelay email``: previews of templates, and a test e-mail step by step."""

from __future__ import annotations

import email
import email.policy
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.actors.emails.conftest import MailServer, server
from tests.ops.shell import Shell
from tests.sinks.smtp.test_aiosmtpd import PASSWORD, USER, Mailbox, serving
from tests.support.certificates import Authority
from tests.support.command import run
from tests.support.waiting import wait_until

__all__ = ["server"]

PREVIEW = ("email", "preview", "autoresponse")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"title": "Thanks", "message": "We have your answer."}))
    return path


def test_a_preview_is_an_email_file(tmp_path: Path, data: Path) -> None:
    done = run("email", "preview", "autoresponse", "--data", str(data), cwd=tmp_path, env={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote autoresponse.eml (")
    content = (tmp_path / "autoresponse.eml").read_bytes()
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["Subject"] == "Preview of autoresponse"
    assert "We have your answer." in message.get_body(["html"]).get_content()


def test_a_preview_without_data_shows_the_example(tmp_path: Path) -> None:
    done = run("email", "preview", "digest", "--text", cwd=tmp_path, env={})
    assert "23 to 29 November 2026" in done.stdout, done.stderr


def test_a_preview_prints_the_text_part(tmp_path: Path, data: Path) -> None:
    done = run(
        "email", "preview", "autoresponse", "--data", str(data), "--text", cwd=tmp_path, env={}
    )
    assert "We have your answer." in done.stdout
    assert list(tmp_path.glob("*.eml")) == []


@pytest.mark.parametrize(
    ("template", "content", "message"),
    [
        ("none", "{}", "expected one of the templates autoresponse"),
        ("autoresponse", "{}", "expected data with every value that the template"),
        ("autoresponse", "[]", "expected the data as a JSON object"),
        ("autoresponse", "{", "got invalid JSON"),
        ("autoresponse", None, "expected a file with the data, got"),
    ],
)
def test_a_preview_that_cannot_be_made_is_refused_in_one_line(
    tmp_path: Path, template: str, content: str | None, message: str
) -> None:
    path = tmp_path / "data.json"
    if content is not None:
        path.write_text(content)
    done = run("email", "preview", template, "--data", str(path), cwd=tmp_path, env={})
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def _env(port: int, **more: str) -> dict[str, str]:
    base = {"SMTP_URL": f"smtp+none://127.0.0.1:{port}", "EMAIL_FROM": "forms@sender.example"}
    return {"BROKER": "embedded", **base, **more}


def test_a_test_email_tells_each_step(tmp_path: Path, server: MailServer) -> None:
    env = _env(server.port)
    done = run("email", "test", "ann@one.example", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    steps = {each["step"]: each["says"] for each in json.loads(done.stdout)}
    assert [*steps] == ["connect", "ehlo", "mail", "rcpt", "data", "dot"]
    assert "SIZE" in steps["ehlo"]
    assert steps["dot"] == "250 2.0.0 taken"
    assert server.recipients == [["ann@one.example"]]


def test_a_test_email_needs_no_broker(tmp_path: Path, server: MailServer) -> None:
    env = _env(server.port) | {"BROKER": ""}
    done = run("email", "test", "ann@one.example", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert server.recipients == [["ann@one.example"]]
    oauth = {
        "SMTP_URL": "smtp://smtp.example:587",
        "SMTP_USER": "forms@sender.example",
        "SMTP_OAUTH_PROVIDER": "google",
        "SMTP_OAUTH_CLIENT_ID": "client",
        "SMTP_OAUTH_CLIENT_SECRET": "secret",
        "SMTP_OAUTH_REFRESH_TOKEN": "token",
    }
    done = run("email", "test", "ann@one.example", cwd=tmp_path, env=env | oauth)
    assert done.returncode == 2  # the tokens of all workers are kept with the broker
    assert "expected BROKER, REDIS_URL or RABBITMQ_URL to be set" in done.stderr


def test_a_test_email_prints_the_dns_record_of_its_dkim_key(
    tmp_path: Path, server: MailServer
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = forms.Encoding.PEM, forms.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, form, forms.NoEncryption())
    (tmp_path / "dkim.pem").write_bytes(pem)
    dkim = {"EMAIL_DKIM_KEY_FILE": "dkim.pem", "EMAIL_DKIM_DOMAIN": "sender.example"}
    env = _env(server.port, **dkim)
    done = run("email", "test", "ann@one.example", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    record = "the TXT record of formrelay._domainkey.sender.example has to be: v=DKIM1; k=rsa; p="
    assert record in " ".join(done.stdout.split())


def test_a_test_email_ends_at_the_step_that_failed(tmp_path: Path, server: MailServer) -> None:
    server.answers["ann@one.example"] = ["550 5.7.1 relaying denied"]
    done = run("email", "test", "ann@one.example", "--json", cwd=tmp_path, env=_env(server.port))
    assert done.returncode == 1
    last = json.loads(done.stdout)[-1]
    assert last == {"step": "rcpt", "state": "bad", "says": "550 5.7.1 relaying denied"}


@pytest.mark.parametrize(
    ("url", "step", "message"),
    [
        ("smtp+none://127.0.0.1:1", "connect", "refused"),
        ("smtp://127.0.0.1:{port}", "tls", "expected it to offer STARTTLS"),
        ("smtp+none://ann:secret@127.0.0.1:{port}", "login", "it offers no login"),
    ],
)
def test_a_test_email_tells_why_there_is_no_connection(
    tmp_path: Path, server: MailServer, url: str, step: str, message: str
) -> None:
    env = _env(0, SMTP_URL=url.format(port=server.port))
    done = run("email", "test", "ann@one.example", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 1
    last = json.loads(done.stdout)[-1]
    assert (last["step"], last["state"]) == (step, "bad")
    assert message in last["says"]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"SMTP_URL": ""}, "expected SMTP_URL"),
        ({"EMAIL_FROM": ""}, "expected EMAIL_FROM to be set"),
    ],
)
def test_a_test_email_needs_its_settings(tmp_path: Path, env: dict[str, str], message: str) -> None:
    done = run("email", "test", "ann@one.example", cwd=tmp_path, env=_env(1) | env)
    assert done.returncode == 2
    assert message in done.stderr


# -- doctor and worker -----------------------------------------------------------------------


def _smtp_findings(tmp_path: Path, status: int, **env: str) -> list[tuple[str, str]]:
    done = run(
        "doctor", "--queue", "emails", "--json", cwd=tmp_path, env={"BROKER": "embedded", **env}
    )
    assert done.returncode == status, done.stderr
    return [(one["state"], one["says"]) for one in json.loads(done.stdout) if one["what"] == "smtp"]


def test_doctor_says_that_no_emails_are_sent(tmp_path: Path) -> None:
    ((state, says),) = _smtp_findings(tmp_path, 1)  # a worker of this queue does not start
    assert state == "weak"
    assert says.startswith("SMTP_URL is not set")


def test_doctor_tries_the_login(tmp_path: Path, server: MailServer) -> None:
    found = _smtp_findings(tmp_path, 0, **_env(server.port))
    assert found[0] == ("ok", f"127.0.0.1:{server.port} answers (no login is configured)")
    url = f"smtp+none://ann:secret@127.0.0.1:{server.port}"
    (state, says), *_ = _smtp_findings(tmp_path, 1, **_env(0, SMTP_URL=url))
    assert state == "bad"
    assert says.startswith("login: ")
    assert "secret" not in says


def test_a_worker_without_a_server_leaves_the_queue_alone_and_works_for_the_others(
    tmp_path: Path,
) -> None:
    # With a queue of submissions whose API is away: the job is tried, and waits.
    shell = Shell(tmp_path, CLICKHOUSE_URL="http://127.0.0.1:1")
    email = {"to": ["ann@one.example"], "subject": "Hello", "template": "autoresponse"}
    shell("send", "send_email", json.dumps(email))
    log = tmp_path / "worker.log"
    with shell.worker() as process:
        shell.send("https://127.0.0.1:1/")  # refused: dead-lettered at once
        wait_until(lambda: shell.queue("webhooks")["dead"] == 1, timeout=60)
        assert process.poll() is None
    assert shell.queue("emails")["waiting"] == 1
    assert log.read_text().count("e-mails are not sent: SMTP_URL is not set") == 1


def worker(tmp_path: Path, *options: str, **env: str) -> str:
    """The error of a worker that cannot start."""
    base = {
        "BROKER": "embedded",
        "API_URL": "http://127.0.0.1:1",
        "CLICKHOUSE_URL": "http://127.0.0.1:1",
    }
    done = run("worker", *options, cwd=tmp_path, env=base | env)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def test_a_worker_of_emails_without_a_server_is_refused(tmp_path: Path) -> None:
    error = worker(tmp_path, "--queue", "emails")
    assert error.count("\n") == 1
    assert "expected SMTP_URL for the queue of e-mails" in error
    assert "pip install 'formrelay[email]'" in error


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"EMAIL_FROM": "a@b..c"}, "EMAIL_FROM: "),
        ({"EMAIL_ALLOWED_FROM": "a@b..c"}, "EMAIL_ALLOWED_FROM: "),
        ({"EMAIL_TEMPLATES_FOLDER": "none"}, "expected EMAIL_TEMPLATES_FOLDER to be a folder"),
        ({"EMAIL_ATTACHMENTS_FOLDER": "none"}, "expected EMAIL_ATTACHMENTS_FOLDER to be a folder"),
        ({"EMAIL_DKIM_KEY_FILE": "none.pem"}, "expected EMAIL_DKIM_DOMAIN to be set"),
        (
            {"EMAIL_DKIM_KEY_FILE": "none.pem", "EMAIL_DKIM_DOMAIN": "sender.example"},
            "EMAIL_DKIM_KEY_FILE",
        ),
        ({"SMTP_OAUTH_PROVIDER": "google"}, "SMTP_USER"),
    ],
)
def test_a_wrong_setting_of_emails_is_refused_at_the_start(
    tmp_path: Path, env: dict[str, str], message: str
) -> None:
    assert message in worker(tmp_path, "--queue", "emails", **_env(1) | env)


# -- the mail program, and TLS ---------------------------------------------------------------


def _mail_program(folder: Path) -> Path:
    """A program ``xdg-open`` that notes what it is asked to open; returns the note."""
    programs, note = folder / "bin", folder / "opened"
    programs.mkdir()
    program = programs / "xdg-open"
    lines = ("#!/bin/sh", f'printf %s "$1" >"{note}.partial"', f'mv "{note}.partial" "{note}"', "")
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    return note


def test_a_preview_is_opened_with_the_mail_program(tmp_path: Path, data: Path) -> None:
    note = _mail_program(tmp_path)
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    done = run(*PREVIEW, "--data", str(data), "--open", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    wait_until(note.exists)  # it runs in the background
    assert note.read_text() == "autoresponse.eml"


def test_a_preview_without_a_mail_program_is_written_and_says_so(
    tmp_path: Path, data: Path
) -> None:
    done = run(*PREVIEW, "--data", str(data), "--open", cwd=tmp_path, env={"PATH": "/nowhere"})
    assert done.returncode == 2
    assert "expected a program that opens autoresponse.eml, got none" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "autoresponse.eml").exists()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("email-ca"))


@pytest.mark.parametrize(("scheme", "security"), [("smtp", "starttls"), ("smtps", "tls")])
def test_a_test_email_is_sent_over_tls_after_a_login(
    tmp_path: Path, authority: Authority, scheme: str, security: str
) -> None:
    mailbox, tls = Mailbox(), authority.server_side(security)
    options = {"ssl_context": tls} if security == "tls" else {"tls_context": tls}
    with serving(mailbox, auth_required=True, auth_require_tls=scheme == "smtp", **options) as port:
        env = _env(0, SMTP_URL=f"{scheme}://localhost:{port}", SMTP_USER=USER)
        env |= {"SMTP_PASSWORD": PASSWORD, "SMTP_CA_FILE": str(authority.certificate)}
        done = run("email", "test", "ann@one.example", "--json", cwd=tmp_path, env=env)
        untrusted = {name: text for name, text in env.items() if name != "SMTP_CA_FILE"}
        refused = run("email", "test", "ann@one.example", "--json", cwd=tmp_path, env=untrusted)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {each["step"]: each["says"] for each in json.loads(done.stdout)}
    assert steps["tls"].startswith("TLSv1.")
    assert steps["login"] == "accepted for a password"
    assert [recipients for _, recipients, _ in mailbox.accepted] == [["ann@one.example"]]
    assert PASSWORD not in done.stdout + refused.stdout
    assert refused.returncode == 1
    last = json.loads(refused.stdout)[-1]
    assert (last["step"], last["state"]) == ("tls", "bad")
    assert "its certificate is not trusted" in last["says"]
