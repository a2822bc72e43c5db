"""The 944 survey answers as submissions and as autosaves, through workers into the Django site."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from formrelay.ops.demo.survey import STEADY, answers, read_rows
from tests.actors.receiver import Receiver, receiving
from tests.faults.workers import Workers
from tests.support.servers.django_site import DjangoSite
from tests.support.waiting import wait_until

BEGAN = datetime(1996, 9, 3, tzinfo=UTC)
REMARKS = (
    "",
    "Zürich, Straße 1",
    "日本語の答え",
    "ok 👍🏽",
    'a "quoted" \\ line\nand another',
    "עברית",
)


@dataclass(frozen=True)
class Sent:
    """Sent data: id -> submission, and id -> newest revision of a partial."""

    submissions: dict[str, dict[str, Any]]
    autosaves: list[dict[str, Any]]
    newest: dict[str, dict[str, Any]]


def survey(seed: int, *, every: int) -> Sent:
    """One of `every` rows, as a submission and as the autosaves of a person who breaks off."""
    rng = random.Random(seed)
    submissions, autosaves, newest = {}, [], {}
    for number, answer in enumerate(answers(read_rows()[::every])):
        filled = dict(answer.submission["payload"])
        filled["answers"] = with_gaps(filled["answers"], rng)
        submissions[filled["submissionId"]] = filled
        its = autosaves_of(f"par-{number}", filled, rng)
        autosaves += its
        newest[f"par-{number}"] = its[-1]
    rng.shuffle(autosaves)
    return Sent(submissions, autosaves, newest)


def with_gaps(given: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Remove some answers, empty some, and add a remark."""
    kept = {name: value for name, value in given.items() if rng.random() > 0.05}
    kept |= {name: None for name in kept if rng.random() < 0.05}
    return {**kept, "Remarks (if any)": rng.choice(REMARKS)}


def autosaves_of(id: str, filled: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """Autosaves with more and more answers, up to a random question."""
    questions = list(filled["answers"].items())
    ends = sorted(rng.sample(range(len(questions) + 1), k=rng.randint(1, 4)))
    return [
        {
            "partialId": id,
            "formId": filled["formId"],
            "sessionId": f"session of {id}",
            "revision": revision,
            "answers": dict(questions[:end]),
            "updatedAt": (BEGAN + timedelta(seconds=30 * revision)).isoformat(),
        }
        for revision, end in enumerate(ends, 1)
    ]


class Site:
    """The Django site, with access by HTTP and to its database."""

    def __init__(self, django: DjangoSite) -> None:
        self.django = django

    def put(self, path: str, body: Any) -> None:
        headers = {"Authorization": f"Bearer {self.django.token}"}
        url = f"{self.django.url}/api/v1/{path}"
        requests.put(url, json=body, headers=headers, timeout=30).raise_for_status()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.django.data_dir / "site.sqlite3")) as database:
            return database.execute(query).fetchall()

    def submissions(self) -> dict[str, tuple[Any, ...]]:
        query = "SELECT id, form_id, status, submitted_at, answers FROM forms_submission"
        return {id: tuple(rest) for id, *rest in self.rows(query)}

    def partials(self) -> dict[str, tuple[Any, ...]]:
        query = "SELECT id, form_id, session_id, revision, updated_at, answers FROM forms_partial"
        return {id: tuple(rest) for id, *rest in self.rows(query)}


@pytest.fixture
def site() -> Iterator[Site]:
    with DjangoSite() as django:
        yield Site(django)


def spelled(answers: Any) -> str:
    """JSON that distinguishes 1, 1.0 and True, and the order of questions."""
    return json.dumps(answers)


def stored_time(text: str) -> str:
    """A time as Django stores it in SQLite."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def expected_submissions(sent: Sent) -> dict[str, tuple[Any, ...]]:
    return {
        id: (one["formId"], one["status"], stored_time(one["submittedAt"]), spelled(one["answers"]))
        for id, one in sent.submissions.items()
    }


def expected_partials(sent: Sent) -> dict[str, tuple[Any, ...]]:
    return {
        id: (
            *(one["formId"], one["sessionId"], one["revision"]),
            *(stored_time(one["updatedAt"]), spelled(one["answers"])),
        )
        for id, one in sent.newest.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker", "every"),
    [
        pytest.param("redis_url", 1, marks=pytest.mark.redis),
        # All rows take 30 s of CPU, and both brokers carry the same bytes.
        pytest.param("rabbitmq_url", 8, marks=pytest.mark.rabbitmq),
    ],
)
def test_the_survey_is_stored_unchanged(
    request: pytest.FixtureRequest, tmp_path: Path, site: Site, broker: str, every: int
) -> None:
    sent = survey(seed=1996, every=every)
    assert len(sent.submissions) == len(sent.newest) == 944 // every
    assert len(sent.autosaves) > 2 * len(sent.newest)
    jobs = [("submission", one) for one in sent.submissions.values()]
    jobs += [("partial", one) for one in sent.autosaves]
    file = tmp_path / "jobs"
    file.write_text("".join(json.dumps(job) + "\n" for job in jobs), encoding="utf-8")
    workers = Workers(
        tmp_path,
        request.getfixturevalue(broker),
        *("SUBMISSION_QUEUE", "PARTIAL_QUEUE", "WEBHOOK_QUEUE"),
        API_URL=site.django.url,
        API_TOKEN=site.django.token,
        WORKER_CONCURRENCY="8",
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        WEBHOOK_DELIVERY_LOG="false",
    )
    with receiving() as receiver:
        endpoint = {"id": "all", "url": f"{receiver.url}/hook", "secret": "s"}
        site.put(f"forms/{STEADY}/webhooks/", [endpoint])
        workers.send("jobs", str(file))
        with workers.one():
            told = [one for one in sent.submissions.values() if one["formId"] == STEADY]
            wait_until(lambda: len(receiver.of("/hook")) >= len(told), timeout=240)
            revisions = sum(one["revision"] for one in sent.newest.values())
            query = "SELECT sum(revision) FROM forms_partial"
            wait_until(lambda: site.rows(query) == [(revisions,)], timeout=240, every=0.2)
            counting = "SELECT count(*) FROM forms_submission"
            wait_until(
                lambda: site.rows(counting) == [(len(sent.submissions),)], timeout=240, every=0.2
            )
        # The worker has finished its running jobs.
        assert site.submissions() == expected_submissions(sent)
        assert site.partials() == expected_partials(sent)
        heard_of_each_once(receiver, told)


def heard_of_each_once(receiver: Receiver, told: list[dict[str, Any]]) -> None:
    """Check that each completed submission of the form with an endpoint had one webhook."""
    hooks = receiver.of("/hook")
    assert len({hook.headers["webhook-id"] for hook in hooks}) == len(hooks)
    heard = sorted(
        (hook.json["data"]["submissionId"], spelled(hook.json["data"]["answers"])) for hook in hooks
    )
    assert heard == sorted((one["submissionId"], spelled(one["answers"])) for one in told)
