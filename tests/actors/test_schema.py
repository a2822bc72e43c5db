"""The JSON Schemas of ``formrelay schema`` accept the jobs that the actors accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from formrelay.core.errors import InvalidJob
from tests.actors.conftest import Site
from tests.actors.test_sending import (
    AT,
    BAD,
    ENDPOINT,
    EVENT,
    PARTIAL,
    PAYMENT,
    SECRET,
    SUBMISSION,
    WEBHOOK,
    but,
    drop,
)
from tests.support.command import run

TYPES = {
    "record_events": "event.record",
    "save_submission": "submission.save",
    "save_partial": "partial.save",
    "update_payment": "payment.update",
    "deliver_webhook": "webhook.send",
    "send_email": "email.send",
    "update_sheet": "sheets.update",
}
EMAIL: dict[str, Any] = {"to": ["a@b.example"], "subject": "Hello", "template": "digest"}
SHEET: dict[str, Any] = {"spreadsheetId": "1aB_-", "range": "Answers", "answers": {"Name": "Ann"}}
VALUES: dict[str, Any] = {"spreadsheetId": "1aB_-", "range": "A1:C", "values": [["a", None, 1]]}
METADATA: dict[str, Any] = {"formId": "f", "version": 2, "retryCount": 0, "anything": [1]}

GOOD = [
    ("record_events", EVENT),
    ("record_events", [EVENT, EVENT]),
    ("record_events", but(EVENT, eventId="0c2fd5de-4d0e-4a0c-8a57-6d1d7a1f5e8b", x={"a": 1})),
    ("record_events", but(EVENT, occurredAt=AT, sessionId=None, properties={"a": [None]})),
    ("record_events", but(EVENT, occurredAt="2104-12-31T23:59:59.123456Z") | {"type": "é" * 200}),
    ("save_submission", SUBMISSION),
    ("save_submission", but(SUBMISSION, webhooks=[ENDPOINT], answers={}, extra=None)),
    ("save_submission", but(SUBMISSION, webhooks=[], status="draft")),
    ("save_partial", PARTIAL),
    ("save_partial", but(PARTIAL, webhook=ENDPOINT, revision=2**63 - 1, extra=[1])),
    ("update_payment", PAYMENT),
    ("update_payment", but(PAYMENT, livemode=True, type="charge.refunded")),
    ("update_payment", but(PAYMENT, type="v1.anything_else", data={"object": {"metadata": None}})),
    ("update_payment", but(PAYMENT, data={"object": {"metadata": {"order": "7"}}})),
    ("update_payment", but(PAYMENT, data={"object": {}})),
    ("deliver_webhook", WEBHOOK),
    ("deliver_webhook", but(WEBHOOK, body=None, id="a b~!", method="PUT", endpointId="e")),
    ("deliver_webhook", but(drop(WEBHOOK, "secret"), secrets=["a", "whsec_c2VjcmV0"])),
    ("deliver_webhook", but(WEBHOOK, secret=None, secrets=["é"])),
    ("deliver_webhook", but(WEBHOOK, secret="whsec_c2VjcmV0cw")),  # without its padding
    ("deliver_webhook", but(WEBHOOK, secret="v1,whsec_c2VjcmV0")),
    ("deliver_webhook", but(WEBHOOK, secret="whsecret v1 whsk")),
    ("deliver_webhook", but(WEBHOOK, headers={"content-type": "application/json;charset=UTF-8"})),
    ("deliver_webhook", but(WEBHOOK, headers={"Content-Type": "Application/Cloudevents+JSON"})),
    ("deliver_webhook", but(WEBHOOK, url="HTTPS://[2001:db8::1]:8443?a=b#c")),
    ("deliver_webhook", but(WEBHOOK, url="https://bücher.example/ü?q=ü ü")),
    ("deliver_webhook", but(WEBHOOK, headers={"X-Te": "é\t", "hosts": "", "te-x": "1", "X~": "2"})),
    ("send_email", EMAIL),
    ("send_email", but(EMAIL, cc=["Ä <ä@ä.example>"], bcc=[], replyTo=None, data={"a": [1]})),
    ("send_email", EMAIL | {"from": "a@b.example", "kind": "autoresponse", "id": "1"}),
    ("send_email", but(EMAIL, attachments=[{"filename": "a", "path": "a/b"}])),
    ("send_email", but(EMAIL, kind="list", unsubscribeUrl="https://b.example/u")),
    ("update_sheet", SHEET),
    ("update_sheet", but(SHEET, rowKey="Name", id="1", connectionId="ann@b.example")),
    ("update_sheet", but(SHEET, auth={"access_token": "ya29.x", "expiry_date": 1, "scope": "s"})),
    ("update_sheet", VALUES),
    ("update_sheet", but(VALUES, rowKey=0, mode="update", range="'It''s'!B2:D9")),
]  # fmt: skip

#: Jobs that only the actors can refuse.
BEYOND = [
    ("deliver_webhook", but(WEBHOOK, headers={"X": SECRET, "x": SECRET})),
    ("deliver_webhook", but(WEBHOOK, url="https://!/")),
    ("deliver_webhook", but(WEBHOOK, metod="PUT")),
    ("send_email", but(EMAIL, to=["nobody"])),
    ("send_email", but(EMAIL, subject="a\nBcc: b@c.example")),
    ("send_email", but(EMAIL, kind="list")),
    ("update_sheet", but(SHEET, values=[[1]])),
    ("update_sheet", but(SHEET, range="Answers!1A")),
    ("update_sheet", but(SHEET, auth={})),
    ("update_sheet", but(VALUES, rowKey="Name")),
    ("deliver_webhook", but(WEBHOOK, headers={"Content-Type": "text/json; charset=latin-1"})),
]
#: Jobs that only the actors accept.
LENIENT = [
    ("record_events", {"type": "a", "form_id": "snake"}),
    ("record_events", but(EVENT, occurredAt=1_700_000_000)),
    ("record_events", but(EVENT, eventId="0c2fd5de4d0e4a0c8a576d1d7a1f5e8b")),
]


def _is_json(payload: Any) -> bool:
    # orjson has a limit of levels on every Python; the limit of json depends on the version.
    try:
        return bool(orjson.loads(orjson.dumps(payload)) == payload)
    except (TypeError, ValueError):
        return False


REFUSED = [
    (actor, payload)
    for actor, payload, _ in BAD
    if _is_json(payload) and (actor, payload) not in BEYOND
]


def wire(actor: str, payload: Any, **more: Any) -> dict[str, Any]:
    return {"type": TYPES[actor], "payload": payload, **more}


class Schemas:
    """The schema of each job type, and the schema for all types."""

    def __init__(self) -> None:
        from formrelay.ops.cli.schema import catalogue, document, job_types

        jobs = job_types()
        self.one = {job.name: self._validator(document(job)) for job in jobs}
        self.all = self._validator(catalogue(jobs))

    def _validator(self, schema: dict[str, Any]) -> Any:
        jsonschema.Draft202012Validator.check_schema(schema)
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        return jsonschema.Draft202012Validator(schema, format_checker=checker)

    def accept(self, job: Any) -> bool:
        verdicts = {self.all.is_valid(job), self.one[job["type"]].is_valid(job)}
        assert len(verdicts) == 1
        return verdicts.pop()


@pytest.fixture(scope="module")
def schemas(session_site: Site) -> Schemas:
    return Schemas()


def _actor_accepts(site: Site, actor: str, payload: Any, **more: Any) -> bool:
    try:
        getattr(site.actors, actor).message(payload=payload, **more)
    except InvalidJob:
        return False
    return True


def test_every_job_type_has_a_schema(schemas: Schemas) -> None:
    assert sorted(schemas.one) == sorted(TYPES.values())


@pytest.mark.parametrize(("actor", "payload"), GOOD)
def test_valid_jobs_are_accepted_by_schema_and_actor(
    site: Site, schemas: Schemas, actor: str, payload: Any
) -> None:
    assert _actor_accepts(site, actor, payload, metadata=METADATA)
    assert schemas.accept(wire(actor, payload, metadata=METADATA, anything=1))


@pytest.mark.parametrize(("actor", "payload"), REFUSED)
def test_invalid_jobs_are_refused_by_schema_and_actor(
    site: Site, schemas: Schemas, actor: str, payload: Any
) -> None:
    assert not _actor_accepts(site, actor, payload)
    assert not schemas.accept(wire(actor, payload))


def test_most_of_the_table_is_compared() -> None:
    assert len(REFUSED) > 70


@pytest.mark.parametrize(
    "metadata", ["f", [], 5, {"version": 0}, {"formId": 5}, {"retryCount": "many"}]
)
def test_invalid_metadata_is_refused_by_schema_and_actor(
    site: Site, schemas: Schemas, metadata: Any
) -> None:
    assert not _actor_accepts(site, "record_events", EVENT, metadata=metadata)
    assert not schemas.accept(wire("record_events", EVENT, metadata=metadata))


@pytest.mark.parametrize(("actor", "payload"), BEYOND)
def test_some_jobs_are_refused_only_by_the_actor(
    site: Site, schemas: Schemas, actor: str, payload: Any
) -> None:
    assert not _actor_accepts(site, actor, payload)
    assert schemas.accept(wire(actor, payload))


@pytest.mark.parametrize(("actor", "payload"), LENIENT)
def test_some_jobs_are_accepted_only_by_the_actor(
    site: Site, schemas: Schemas, actor: str, payload: Any
) -> None:
    assert _actor_accepts(site, actor, payload)
    assert not schemas.accept(wire(actor, payload))


def test_an_unknown_or_missing_type_is_refused(schemas: Schemas) -> None:
    for job in ({"type": "event.recrod", "payload": EVENT}, {"payload": EVENT}, [], "x"):
        assert not schemas.all.is_valid(job)
    for name, validator in schemas.one.items():
        assert not validator.is_valid({"type": name})
        assert not validator.is_valid({"type": f"{name}s", "payload": EVENT})


def test_fields_have_titles_and_jobs_have_descriptions(schemas: Schemas) -> None:
    definitions = schemas.all.schema["$defs"]
    for name in TYPES.values():
        assert definitions[name]["description"]
    assert definitions["Event"]["properties"]["formId"]["title"] == "Form id"


# -- the command ------------------------------------------------------------------------------


def test_the_command_needs_no_configuration_and_starts_nothing(tmp_path: Path) -> None:
    for env in ({}, {"BROKER": "embedded"}):
        done = run("schema", "webhook.send", cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["properties"]["type"]["const"] == "webhook.send"
    assert list(tmp_path.iterdir()) == []


def test_without_a_type_the_command_prints_one_schema_for_all(tmp_path: Path) -> None:
    printed = json.loads(run("schema", cwd=tmp_path, env={}).stdout)
    assert set(TYPES.values()) < set(printed["$defs"])


def test_the_command_writes_a_file_for_each_type_into_a_folder(tmp_path: Path) -> None:
    done = run("schema", "--out", "made/schemas", cwd=tmp_path, env={})
    names = [f"{name}.schema.json" for name in sorted(TYPES.values())]
    assert done.stdout.splitlines() == [f"made/schemas/{name}" for name in names]
    for name in names:
        jsonschema.Draft202012Validator.check_schema(
            json.loads((tmp_path / "made/schemas" / name).read_text())
        )


@pytest.mark.parametrize("arguments", [["webhook.sned"], ["--out", "file"]])
def test_wrong_use_is_an_error_of_one_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file").touch()
    done = run("schema", *arguments, cwd=tmp_path, env={})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("formrelay: expected ")
    assert done.stderr.count("\n") == 1
