"""``formrelay email``: preview a template, and send a test e-mail."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import orjson
import typer

from ...config import EmailSettings, Settings, get_settings
from ...core.errors import ConfigError, InvalidJob, NotConfigured
from ..output import print_document, print_json, print_table, say
from ..worker.boot import NOT_FINE
from .options import JsonOption

if TYPE_CHECKING:
    from ...sinks.smtp.dkim import DkimKey

app = typer.Typer(help="Preview templates; send a test e-mail.", no_args_is_help=True)

_EXAMPLE = "forms@example.com"


@app.command()
def preview(
    template: Annotated[
        str, typer.Argument(metavar="TEMPLATE", help="Name of a template, like autoresponse.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with the variables. Default: TEMPLATE.json beside the template.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="E-mail file to write. Default: TEMPLATE.eml."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Print the text part, and write no file.")
    ] = False,
    is_opened: Annotated[
        bool, typer.Option("--open", help="Open the file with your mail program.")
    ] = False,
    subject: Annotated[str, typer.Option(help="Subject of the e-mail.")] = "",
) -> None:
    """Write the e-mail of a template and your data to a file. Sends nothing.

    Example: formrelay email preview autoresponse --data data.json
    """
    from ...actors.emails.resources import make_templates

    settings = _settings().emails
    templates = make_templates(settings.templates_folder)
    path = data or templates.example(template)
    body = templates.render(template, {} if path is None else _variables(path))
    if text:
        print_document(body.text)
        return
    content = _written(
        settings,
        "Ann Example <ann@example.com>",
        subject or f"Preview of {template}",
        (body.html, body.text),
    )
    target = out or Path(f"{template}.eml")
    _save(target, content)
    say(f"wrote {target} ({len(content)} bytes)")
    if is_opened and typer.launch(str(target)):
        raise ConfigError(f"expected a program that opens {target}, got none: open it yourself")


@app.command("test")
def send_test(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Recipient, for example you@example.com.")
    ],
    json: JsonOption = False,
) -> None:
    """Send an e-mail and print what the SMTP server answered at each step.

    Example: formrelay email test ann@example.com
    """
    from ...actors.emails.resources import make_account, make_dkim_key
    from ...sinks.smtp.address import parse_mailbox
    from ...sinks.smtp.probe import send_probe

    settings = _settings()
    account, section = make_account(settings), settings.emails
    recipient = parse_mailbox(address)
    if section.sender is None:
        raise ConfigError("expected EMAIL_FROM to be set, got nothing: set it to your sender")
    key = make_dkim_key(section)
    line = "This is a test of formrelay's e-mails. No answer is needed."
    content = _written(
        section, address, "Test of formrelay's e-mails", (f"<p>{line}</p>", f"{line}\n"), key
    )
    sender = parse_mailbox(section.sender).address
    found = [
        {"step": step.name, "state": "ok" if step.is_ok else "bad", "says": step.says}
        for step in send_probe(account, sender, recipient.address, content)
    ]
    if json:
        print_json(found)
    else:
        server = f"{account.host}:{account.port}"
        rows = [[*each.values()] for each in found]
        print_table(server, ["step", "state", "answer"], rows, empty="")
        if key is not None:
            say(
                f"signed with DKIM; the TXT record of {key.selector}._domainkey.{key.domain} "
                f"has to be: {key.record}"
            )
    if any(each["state"] == "bad" for each in found):
        raise typer.Exit(NOT_FINE)


def _settings() -> Settings:
    """The settings, also without a broker: only a login with OAuth needs it, for its tokens."""
    try:
        return get_settings()
    except NotConfigured as error:
        if error.settings is None:
            raise
        settings: Settings = error.settings
        return settings


def _variables(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"expected a file with the data, got {str(path)!r}: {error.strerror}"
        ) from None
    except orjson.JSONDecodeError as error:
        raise InvalidJob(f"expected the data as JSON, got invalid JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise InvalidJob("expected the data as a JSON object, got another JSON value")
    return found


def _save(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"expected a file that can be written, got {str(path)!r}: {error.strerror}"
        ) from None


def _written(
    section: EmailSettings, to: str, subject: str, body: tuple[str, str], key: DkimKey | None = None
) -> bytes:
    """The bytes of an e-mail, whose body is HTML and text."""
    from ...sinks.smtp.address import parse_mailbox
    from ...sinks.smtp.message import Email, write

    email = Email(
        id=uuid4().hex,
        date=datetime.now(UTC),
        sender=parse_mailbox(section.sender or _EXAMPLE),
        to=[parse_mailbox(to)],
        subject=subject,
        html=body[0],
        text=body[1],
        sign=key,
    )
    return write(email)
