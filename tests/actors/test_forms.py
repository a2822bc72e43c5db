"""Forms with arbitrary questions and answers are stored unchanged."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from formrelay.brokers import MessageTooLarge
from formrelay.core.errors import InvalidJob
from formrelay.core.failure import Reason
from tests.actors.conftest import Site
from tests.support.servers.django_site import DjangoSite

AT = "2026-01-31T09:30:00Z"


def nested(levels: int) -> Any:
    value: Any = "at the bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"next": value}
    return value


FORMS: dict[str, Any] = {
    "no answers": {},
    "one answer": {"q": "a"},
    "500 answers": {f"question {n}": n if n % 3 else f"text {n}" for n in range(500)},
    "nothing said": {"text": "", "list": [], "object": {}, "null": None, "zero": 0, "no": False},
    "keys": {"": 1, "a.b": 2, "a b": 3, "$ref": 4, "__proto__": 5, "submissionId": 6, "ключ": 7},
    "more keys": {'"': 1, "\\": 2, "\n": 3, "a[0]": 4, "é": 5, "e\u0301": 6, "x" * 5_000: 7},
    "nested": {"address": {"lines": ["a", {"b": [1, [2, [None]]]}]}, "deep": nested(150)},
    "lists": {"picked": ["a", "b", "a"], "grid": [[1, 2], [3, 4]], "mixed": [1, "1", None, True]},
    "whole numbers": {
        f"n{n}": n for n in (0, -1, 2**31, 2**53 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63))
    },
    "fractions": {f"x{x}": x for x in (0.1, -0.0, 1.0, 1e308, -1e308, 5e-324, 1e-7, 1e22, 0.3)},
    "booleans": {"yes": True, "no": False, "one": 1, "as text": "true"},
    "long": {"essay": "Wörter und mehr. " * 25_000},
    "emoji": {"mood": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "😀": "key", "flag": "🇩🇪"},
    "scripts": {"rtl": "שלום مرحبا", "cjk": "日本語", "zalgo": "Z̸̢͠a", "bom": "\ufeffx"},
    "control": {"c": "\x01\x1f\x7f\x85\u2028\u2029", "tab": "\t\r\n", "end": "\uffff\ufffd"},
    "looks like code": {"a": "<script>", "b": "'; DROP TABLE --", "c": "{{x}}", "d": "\\u0000"},
}


@pytest.fixture(scope="module")
def django() -> Iterator[DjangoSite]:
    with DjangoSite() as django:
        yield django


@pytest.fixture
def forms(site: Site, django: DjangoSite) -> Forms:
    site.use(api={"url": django.url, "token": SecretStr(django.token)})
    return Forms(site, django)


class Forms:
    """Sends answers as a submission and as a partial, and reads them from the database."""

    def __init__(self, site: Site, django: DjangoSite) -> None:
        self._site, self._django = site, django

    def send(self, answers: Any) -> str:
        id = uuid4().hex
        self._site.actors.save_submission.send(submission(id, answers))
        self._site.actors.save_partial.send(partial(id, answers))
        return id

    def stored(self, *ids: str) -> dict[str, tuple[str, str]]:
        """Wait for the jobs; returns id -> answers of the submission and of the partial."""
        self._site.work_off("submissions", "partials")
        assert [*self._site.dead("submissions"), *self._site.dead("partials")] == []
        with closing(sqlite3.connect(self._django.data_dir / "site.sqlite3")) as database:
            rows = database.execute(
                "SELECT s.id, s.answers, p.answers"
                " FROM forms_submission s JOIN forms_partial p ON p.id = s.id"
            ).fetchall()
        return {id: (one, other) for id, one, other in rows if id in ids}


def submission(id: str, answers: Any) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {
        "submissionId": id,
        "formId": "any",
        "status": "completed",
        "answers": answers,
        "submittedAt": at,
    }


def partial(id: str, answers: Any) -> dict[str, Any]:
    return {
        "partialId": id,
        "formId": "any",
        "sessionId": id,
        "revision": 1,
        "answers": answers,
        "updatedAt": AT,
    }


def spelled(answers: Any) -> str:
    """JSON that distinguishes 1, 1.0, True and -0.0, and the order of questions."""
    return json.dumps(answers)


def test_forms_of_many_shapes_are_stored_unchanged(forms: Forms) -> None:
    sent = {forms.send(answers): name for name, answers in FORMS.items()}
    stored = forms.stored(*sent)
    for id, name in sent.items():
        assert stored[id] == (spelled(FORMS[name]),) * 2, name


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
ANSWERS = st.dictionaries(TEXTS, VALUES, max_size=6)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(many=st.lists(ANSWERS, min_size=1, max_size=8))
def test_random_forms_are_stored_unchanged(forms: Forms, many: list[dict[str, Any]]) -> None:
    sent = {forms.send(answers): answers for answers in many}
    stored = forms.stored(*sent)
    assert stored == {id: (spelled(answers),) * 2 for id, answers in sent.items()}


BAD: dict[str, tuple[Any, str]] = {
    "beyond 64 bit": (2**64, "64-bit"),
    "below 64 bit": (-(2**63) - 1, "64-bit"),
    "NaN": (math.nan, r"answers\.q: expected numbers that are finite"),
    "infinity": ([1, {"x": -math.inf}], r"answers\.q: expected numbers that are finite"),
    "half a surrogate pair": ("\ud800", "surrogates"),
    "half a surrogate pair as a key": ({"\ud800": 1}, "surrogates"),
    "NUL": ("SECRET\0", "NUL"),
    "NUL in a key": ({"SECRET\0": 1}, "NUL"),
    "NUL after a backslash": ("\\\0", "NUL"),
    "a key that is no text": ({1: 2}, "must be str"),
    "too deep": (nested(400), "Recursion"),
    "too large": ("x" * 3_000_000, "bytes"),
    "a set": ({1, 2}, "set"),
    "bytes": (b"SECRET", "bytes"),
    "a time": (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
}


@pytest.mark.parametrize("name", BAD)
def test_answers_that_json_would_change_are_refused_at_send(name: str, site: Site) -> None:
    value, says = BAD[name]
    for send in (
        lambda: site.actors.save_submission.send(submission("x", {"q": value})),
        lambda: site.actors.save_partial.send(partial("x", {"q": value})),
    ):
        with pytest.raises((InvalidJob, MessageTooLarge), match=says) as caught:
            send()
        assert "SECRET" not in str(caught.value)
    assert site.waiting() == 0


@pytest.mark.parametrize("id", ["a b", "é", "a\r\nb", "a\n", ".", "..", ""])
def test_an_id_that_cannot_be_part_of_a_url_is_refused_at_send(id: str, site: Site) -> None:
    actors, event = site.actors, {"id": "evt_1", "type": "charge.refunded", "created": 1}
    paid = {"object": {"metadata": {"submissionId": id}}}
    for send in (
        lambda: actors.save_submission.send({**submission("x", {}), "submissionId": id}),
        lambda: actors.save_partial.send({**partial("x", {}), "partialId": id}),
        lambda: actors.update_payment.send({**event, "data": paid}),
    ):
        with pytest.raises(InvalidJob, match=r"submissionId|partialId"):
            send()
    assert site.waiting() == 0


@pytest.mark.parametrize("extra", [{"\ud800": 1}, {"a": "\ud800"}], ids=["key", "text"])
def test_unknown_keys_arrive_unchanged_or_are_refused(site: Site, extra: Any) -> None:
    with pytest.raises(InvalidJob, match="surrogates"):
        site.actors.save_submission.send({**submission("x", {}), "more": extra})
    assert site.waiting() == 0


def test_a_webhook_with_nan_is_refused_and_not_sent_with_null(site: Site) -> None:
    with pytest.raises(InvalidJob, match="not finite"):
        site.actors.deliver_webhook.send(
            {"url": "https://example.com/", "body": {"x": math.nan}, "secret": "s"}
        )


def test_the_error_names_the_question_whose_answer_is_refused(site: Site) -> None:
    with pytest.raises(InvalidJob, match=r"payload\.answers\.remark: expected text without NUL"):
        site.actors.save_submission.send(submission("x", {"name": "Ann", "remark": "a\0"}))


@pytest.mark.parametrize("key", ["a\0b", "\ud800", 7], ids=ascii)
def test_an_invalid_question_is_refused(site: Site, key: Any) -> None:
    with pytest.raises(InvalidJob, match=r"save_submission: payload\.answers\."):
        site.actors.save_submission.send(submission("x", {key: 1}))


@pytest.mark.parametrize("answers", [None, [], "text", 7, [["q", "a"]]], ids=repr)
def test_answers_that_are_not_an_object_are_refused(site: Site, answers: Any) -> None:
    with pytest.raises(InvalidJob, match=r"save_submission: payload\.answers"):
        site.actors.save_submission.send(submission("x", answers))


def test_a_nul_from_another_publisher_makes_a_dead_letter_with_the_payload(
    site: Site, forms: Forms
) -> None:
    good = forms.send({"q": "a"})
    jobs = {
        "submissions": ("submission.save", submission("nul", {"q": "a\0b"})),
        "partials": ("partial.save", partial("nul", {"q": "a\0b"})),
    }
    for queue, (type, payload) in jobs.items():
        site.inject(queue, orjson.dumps({"type": type, "payload": payload}))
    site.work_off("submissions", "partials")
    for queue in jobs:
        (letter,) = site.dead(queue)
        assert letter.failure.reason is Reason.INVALID
        assert "NUL" in letter.failure.message
        assert letter.message.kwargs["payload"]["answers"] == {"q": "a\0b"}
        assert site.broker.delete_dead(queue, letter.message.message_id)
    assert forms.stored(good) == {good: ('{"q": "a"}',) * 2}
