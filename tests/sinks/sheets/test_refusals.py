"""What Google refuses: a wrong job fails alone, a wrong sheet fails clearly, quotas defer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import (
    FormrelayError,
    InvalidJob,
    NotNow,
    PartsFailed,
    SinkPermanent,
    SinkTransient,
    SinkUnready,
)
from formrelay.sinks.http.blocking import BlockingResponse
from formrelay.sinks.sheets import (
    BadBatch,
    QuotaExceeded,
    SheetRefused,
    SheetWriter,
    TokenRefused,
)
from formrelay.sinks.sheets.errors import parse_answer
from tests.sinks.sheets.making import answers, values
from tests.support.google import Book, Fate, Google
from tests.support.google import requests as stand_in
from tests.support.google.a1 import Area
from tests.support.google.book import Refused
from tests.support.google.quotas import Quotas


def write(writer: SheetWriter, *jobs: Any) -> dict[int, FormrelayError]:
    return writer.write("book", jobs).failures


def kind_of(error: FormrelayError) -> str:
    assert isinstance(error, SheetRefused)
    return error.kind


def column(book: Book) -> list[Any]:
    return [row[0] for row in book.tabs[0].values()]


def test_a_call_that_fails_uses_no_attempt_of_jobs_that_were_not_tried(
    writer: SheetWriter, book: Book, google: Google
) -> None:
    jobs = [answers("1", name="Ann"), answers("2", "Other", name="Bob")]
    google.fates.append(Fate("failed"))
    failures = write(writer, *jobs)
    assert [type(failures[index]) for index in (0, 1)] == [SinkTransient, NotNow]
    assert write(writer, *jobs) == {}
    assert [tab.values() for tab in book.tabs[:2]] == [[["name"], ["Ann"]], [["name"], ["Bob"]]]


def test_jobs_that_are_wrong_before_the_call_fail_alone(
    writer: SheetWriter, book: Book, google: Google
) -> None:
    failures = write(
        writer,
        answers("1", name="Ann"),
        answers("2", name="x" * 50_001),
        answers("3"),
        values("4"),
        values("5", [None, None]),
        answers("6", **{" ": 1}),
        answers("7", name="Bob"),
        values("8", [1, 2, 3], [4], range="Answers!A2:B9", is_update=True),
        values("9", [1], range="Answers!A2000", is_update=True),
    )
    assert set(failures) == {1, 2, 3, 4, 5, 7, 8}
    assert all(isinstance(failures[n], InvalidJob) for n in (1, 2, 3, 4, 5, 7))
    assert isinstance(failures[8], SheetRefused)
    assert "xxx" not in str(failures[1])
    assert column(book) == ["name", "Ann", "Bob"]
    assert google.calls["spreadsheets.batchUpdate"] == 1


def test_text_that_is_not_unicode_fails_nobody_else(writer: SheetWriter, book: Book) -> None:
    failures = write(
        writer,
        answers("1", name="x\ud800", list={"a": "\ud800"}, number=10**30),
        answers("2", **{"n\ud800": 1}),
        answers("3", name="Bob"),
    )
    assert failures.keys() == {1}
    assert isinstance(failures[1], InvalidJob)
    assert column(book) == ["name", "x?", "Bob"]


def test_a_protected_update_fails_alone(writer: SheetWriter, book: Book) -> None:
    book.tabs[0].protected.append(Area(4, 5, 0, 1))
    failures = write(
        writer,
        answers("1", name="Ann"),
        values("2", ["x"], range="Answers!A5", is_update=True),
        values("3", ["y"], range="Answers!A9", is_update=True),
    )
    assert failures.keys() == {1}
    assert kind_of(failures[1]) == "protected"
    assert book.tabs[0].values()[8] == ["y"]


def test_a_grid_that_has_grown_since_is_read_again(
    writer: SheetWriter, book: Book, google: Google
) -> None:
    tab = book.tabs[0]
    tab.rows, tab.columns = 400_000, 1
    book.tabs[1].rows = 1
    write(writer, answers("1", name="Ann"))
    tab.rows, tab.columns = 400_001, 25
    update = values("2", ["x"], range="Answers!A400001", is_update=True)
    assert write(writer, update) == {}
    job = values("3", [1] * 26)  # would need 10,400,026 cells
    assert kind_of(write(writer, job)[0]) == "too_many_cells"
    tab.rows = 1000
    del tab.cells[2:]
    assert write(writer, values("4", [1] * 26)) == {}


def test_a_replayed_job_that_was_wrong_is_not_taken_for_done(
    writer: SheetWriter, book: Book
) -> None:
    assert write(writer, answers("1", name="Ann"), answers("2", name="x" * 50_001))
    assert write(writer, answers("2", name="Bob")) == {}
    assert column(book) == ["name", "Ann", "Bob"]


def with_poison(monkeypatch: pytest.MonkeyPatch, *, names_the_request: bool) -> None:
    """Google refuses rows with the value "poison"."""
    whole = stand_in.apply

    def apply(book: Book, requests: list[Any]) -> Any:
        for index, request in enumerate(requests):
            if "poison" in str(request.get("appendCells")):
                where = f"Invalid requests[{index}].appendCells: " if names_the_request else ""
                raise Refused(f"{where}the word poison is not allowed")
        return whole(book, requests)

    monkeypatch.setattr("tests.support.google.api.apply", apply)


@pytest.mark.parametrize("names_the_request", [True, False])
def test_a_job_that_google_refuses_fails_alone(
    writer: SheetWriter, book: Book, monkeypatch: pytest.MonkeyPatch, names_the_request: bool
) -> None:
    with_poison(monkeypatch, names_the_request=names_the_request)
    jobs = [answers(str(n), name="poison" if n in (3, 11) else f"n{n}") for n in range(16)]
    failures = write(writer, *jobs)
    assert failures.keys() == {3, 11}
    for error in failures.values():
        assert isinstance(error, BadBatch)
        assert "poison" not in str(error)
    assert sorted(column(book)[1:]) == sorted(f"n{n}" for n in range(16) if n not in (3, 11))


def test_a_refusal_of_everything_does_not_use_up_the_quota(
    writer: SheetWriter, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_poison(monkeypatch, names_the_request=False)
    failures = write(writer, *(answers(str(n), name="poison") for n in range(500)))
    assert len(failures) == 500
    assert {type(error) for error in failures.values()} == {BadBatch, SinkTransient}
    assert google.calls["spreadsheets.batchUpdate"] < 40


def test_full_space_for_metadata_is_a_clear_error(writer: SheetWriter, book: Book) -> None:
    location = {"spreadsheet": True}
    entry = {"metadataKey": "x", "metadataValue": "y" * 29_990, "location": location}
    book.create_entry(entry | {"visibility": "PROJECT"})
    failures = write(writer, answers("1", name="Ann"), answers("2", name="Bob"))
    assert {kind_of(error) for error in failures.values()} == {"metadata"}


def test_many_fences_are_spread_over_calls_if_the_space_is_short(
    writer: SheetWriter, book: Book, google: Google
) -> None:
    jobs = [answers(str(n), name=n) for n in range(8)]
    write(writer, answers("x", name="x"))
    for job in jobs:
        google.fates.append(Fate("dropped"))
        write(writer, job)
    location = {"spreadsheet": True}
    entry = {"metadataKey": "x", "metadataValue": "y" * 29_850, "location": location}
    book.create_entry(entry | {"visibility": "PROJECT"})
    failures = write(writer, *jobs)
    assert len(failures) < 8  # each call fits; the space of all of them does not
    assert len(column(book)) == 2 + 8 - len(failures)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda google: google.books.clear(), "not_found"),
        (lambda google: setattr(google.books["book"], "editors", {"bob"}), "permission"),
        (
            lambda google: (
                google.books["book"].tabs[0].protected.append(Area(None, None, None, None))
            ),
            "protected",
        ),
        (lambda google: setattr(google.books["book"].tabs[1], "rows", 390_000), "too_many_cells"),
        (lambda google: google.books["book"].tabs.pop(0), "range"),
    ],
)
def test_what_concerns_the_tab_fails_all_its_jobs_at_once(
    writer: SheetWriter, google: Google, change: Callable[[Google], Any], kind: str
) -> None:
    change(google)
    google.books.get("book", Book("x")).tabs[0].rows = 1
    failures = write(writer, answers("1", name="Ann"), answers("2", name="Bob"))
    assert len(failures) == 2
    (error,) = set(failures.values())
    assert isinstance(error, SheetRefused)
    assert error.kind == kind
    assert google.calls.total() < 8


def test_a_wrong_tab_does_not_stop_the_other_tab(writer: SheetWriter, book: Book) -> None:
    failures = write(writer, answers("1", "Nowhere", name="Ann"), answers("2", "Other", name="Bob"))
    assert failures.keys() == {0}
    assert book.tabs[1].values() == [["name"], ["Bob"]]


def test_a_used_up_quota_defers_and_is_learnt(google: Google, writer: SheetWriter) -> None:
    google.quotas = Quotas(per_project=300, per_user=1)
    assert write(writer, answers("1", name="Ann")).keys() == {0}  # reads twice
    (error,) = write(writer, answers("1", name="Ann")).values()
    assert isinstance(error, QuotaExceeded)
    assert (error.limit, error.value, error.per, error.is_per_user) == (
        "ReadRequestsPerMinutePerUser",
        1,
        timedelta(minutes=1),
        True,
    )
    assert error.metric == "sheets.googleapis.com/read_requests"
    assert error.after > timedelta(seconds=1)


def test_a_quota_used_up_between_calls_keeps_what_is_written(
    google: Google, book: Book, writer: SheetWriter
) -> None:
    write(writer, answers("0", name="x"))
    google.quotas = Quotas(per_user=1)
    failures = write(writer, answers("1", name="Ann"), answers("2", "Other", name="Bob"))
    assert failures.keys() == {1}
    assert isinstance(failures[1], NotNow)
    assert column(book) == ["name", "x", "Ann"]


def test_the_result_tells_one_error_of_all_from_errors_of_parts(writer: SheetWriter) -> None:
    jobs = [answers("1", "Nowhere", name="Ann"), answers("2", "Nowhere", name="Ann")]
    written = writer.write("book", jobs)
    with pytest.raises(SheetRefused):
        written.raise_failures(2)
    written = writer.write("book", [*jobs, answers("3", name="Ann")])
    with pytest.raises(PartsFailed) as caught:
        written.raise_failures(3)
    assert caught.value.failures.keys() == {0, 1}
    assert written.rows == 1
    written = writer.write("book", [answers("3", name="Ann")])
    written.raise_failures(1)


def error(status: int, message: str = "x", *details: dict[str, Any]) -> BlockingResponse:
    import orjson

    body = {"error": {"code": status, "message": message, "details": list(details)}}
    head = f"HTTP/1.1 {status} X\r\nRetry-After: 7\r\n\r\n".encode()
    return BlockingResponse(status, "application/json", orjson.dumps(body), True, head)


def info(reason: str, **metadata: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "metadata": metadata}


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        (error(400), BadBatch, "does not accept the rows"),
        (error(400, "This operation is not supported for this document"), BadBatch, "convert it"),
        (error(400, "Unable to parse range: secret!A1"), BadBatch, "check range"),
        (error(401), TokenRefused, "access token"),
        (error(403), SheetRefused, "as editor"),
        (error(403, "x", info("RATE_LIMIT_EXCEEDED")), QuotaExceeded, "quota"),
        (error(403, "x", info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")), SheetRefused, "scope"),
        (error(403, "x", info("SERVICE_DISABLED")), SinkUnready, "enable it"),
        (error(404), SheetRefused, "does not exist"),
        (error(408), SinkTransient, "answered 408"),
        (error(409), SinkTransient, "answered 409"),
        (error(413), SheetRefused, "fewer rows"),
        (error(429), QuotaExceeded, "quota"),
        (error(500), SinkTransient, "answered 500"),
        (error(503), SinkTransient, "answered 503"),
        (error(302), SinkTransient, "answered 302"),
    ],
)
def test_an_error_of_google_has_a_kind_and_an_advice(
    response: BlockingResponse, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        parse_answer(response)
    assert type(caught.value) is kind
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, QuotaExceeded):
        assert caught.value.after == timedelta(seconds=7)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"error": 1}', b'{"error": {"details": 3}}']
)
def test_an_error_without_json_has_a_kind_too(body: bytes) -> None:
    for status, kind in ((400, SinkPermanent), (404, SinkPermanent), (502, SinkTransient)):
        with pytest.raises(kind):
            parse_answer(BlockingResponse(status, "text/html", body, True, b""))
    if body != b'{"error": 1}' and b"details" not in body:
        with pytest.raises(SinkTransient, match="expected JSON with 200"):
            parse_answer(BlockingResponse(200, "text/html", body, True, b""))


def test_a_quota_with_the_older_names_is_understood() -> None:
    metadata = {"quota_limit": "defaultPerDayPerProject", "quota_limit_value": "8000"}
    with pytest.raises(QuotaExceeded) as caught:
        parse_answer(error(429, "x", info("RATE_LIMIT_EXCEEDED", **metadata)))
    assert (caught.value.value, caught.value.per) == (8000, timedelta(days=1))
    assert not caught.value.is_per_user
    with pytest.raises(QuotaExceeded) as caught:
        parse_answer(error(429, "x", info("x", quota_unit="1/min/{project}", quota_limit="<b>")))
    assert (caught.value.limit, caught.value.per) == ("", timedelta(minutes=1))
