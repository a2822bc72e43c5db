"""The stand-in behaves as Google's public reference says, also with Google's own client."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.google import Book, Google, serving
from tests.support.google.a1 import Area
from tests.support.google.quotas import Quotas
from tests.support.google.schema import NotInSchema, check, description, masked


@pytest.fixture
def call(google: Google) -> Any:
    """Sends a request; returns the status and the body."""
    token = google.tokens.new_access("ann")

    def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        import json

        data = b"" if body is None else json.dumps(body).encode()
        return google.handle(method, "/v4/spreadsheets/" + path, token, data)

    return call


def batch(call: Any, *requests: dict[str, Any]) -> tuple[int, Any]:
    found: tuple[int, Any] = call("POST", "book:batchUpdate", {"requests": list(requests)})
    return found


def append(*texts: str, sheet: int = 0) -> dict[str, Any]:
    cells = [{"userEnteredValue": {"stringValue": text}} for text in texts]
    rows = [{"values": cells}]
    return {"appendCells": {"sheetId": sheet, "rows": rows, "fields": "userEnteredValue"}}


def create(id: int, value: str = "v") -> dict[str, Any]:
    entry = {
        "metadataId": id,
        "metadataKey": "k",
        "metadataValue": value,
        "location": {"spreadsheet": True},
        "visibility": "DOCUMENT",
    }
    return {"createDeveloperMetadata": {"developerMetadata": entry}}


def test_a_batch_is_executed_as_a_whole_or_not_at_all(call: Any, book: Book) -> None:
    assert batch(call, create(7), append("a"))[0] == 200
    status, body = batch(call, append("b"), create(7))
    assert status == 400
    assert body["error"]["status"] == "INVALID_ARGUMENT"
    assert body["error"]["message"].startswith("Invalid requests[1].createDeveloperMetadata: ")
    assert book.tabs[0].values() == [["a"]]
    assert batch(call)[1]["error"]["message"] == "Must specify at least one request."


def test_entries_are_found_and_deleted(call: Any) -> None:
    batch(call, create(7, "x"), create(8, "y"))
    assert call("GET", "book/developerMetadata/8")[1]["metadataValue"] == "y"
    assert call("GET", "book/developerMetadata/9")[0] == 404
    lookup = {"dataFilters": [{"developerMetadataLookup": {"metadataKey": "k"}}]}
    found = call("POST", "book/developerMetadata:search", lookup)[1]["matchedDeveloperMetadata"]
    assert {entry["developerMetadata"]["metadataId"] for entry in found} == {7, 8}
    delete = {"dataFilter": {"developerMetadataLookup": {"metadataId": 7}}}
    assert batch(call, {"deleteDeveloperMetadata": delete})[0] == 200
    assert batch(call, {"deleteDeveloperMetadata": delete})[0] == 400


def test_space_for_metadata_is_limited(call: Any) -> None:
    assert batch(call, create(1, "x" * 29_999))[0] == 200
    assert batch(call, create(2))[0] == 400


def test_cells_have_limits(call: Any, book: Book) -> None:
    assert batch(call, append("x" * 50_001))[0] == 400
    _status, body = batch(call, append(*["x"] * 27))
    assert "beyond the last requested column of: 25" in body["error"]["message"]
    grow = {"sheetId": 0, "dimension": "COLUMNS", "length": 1}
    assert batch(call, {"appendDimension": grow}, append(*["x"] * 27))[0] == 200
    grow = {"sheetId": 0, "dimension": "ROWS", "length": 10_000_000}
    assert "above the limit" in batch(call, {"appendDimension": grow})[1]["error"]["message"]
    book.tabs[0].protected.append(Area(0, 5, 0, 1))
    assert "protected cell" in batch(call, append("y"))[1]["error"]["message"]


def test_a_sheet_grows_with_its_rows(call: Any, book: Book) -> None:
    book.tabs[0].rows = 1
    assert batch(call, append("a"), append("b"))[0] == 200
    assert book.tabs[0].rows == 2


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "book?field=x", None),
        ("GET", "book?fields=sheets(nothing)", None),
        ("PATCH", "book", None),
        ("POST", "book:batchUpdate", {"request": []}),
        ("POST", "book:batchUpdate", {"requests": [{"appendCells": {"sheetId": "0"}}]}),
        ("POST", "book:batchUpdate", {"requests": [{"appendCells": {"sheetId": 2**31}}]}),
        ("POST", "book:batchUpdate", {"requests": [{"appendRows": {}}]}),
    ],
)
def test_a_request_that_google_does_not_describe_is_refused(
    google: Google, call: Any, method: str, path: str, body: Any
) -> None:
    assert call(method, path, body)[0] == 400
    assert len(google.problems) == 1
    google.problems.clear()


def test_the_mask_selects_parts_of_an_answer() -> None:
    found = {"a": [{"b": 1, "c": {"d": 2, "e": 3}}], "f": 4}
    assert masked(found, "a(b,c/d)") == {"a": [{"b": 1, "c": {"d": 2}}]}
    assert masked(found, "a.c.e,f") == {"a": [{"c": {"e": 3}}], "f": 4}
    assert masked(found, "*") == found


def test_the_schema_refuses_what_google_does_not_have() -> None:
    assert description()["version"] == "v4"
    check({"userEnteredValue": {"numberValue": 1}}, "CellData")
    for wrong in ({"value": 1}, {"userEnteredValue": {"numberValue": "1"}}, []):
        with pytest.raises(NotInSchema):
            check(wrong, "CellData")


def test_quotas_answer_with_the_limit(google: Google, call: Any) -> None:
    google.quotas = Quotas(per_project=2, per_user=60, window=0.3)
    assert [call("GET", "book")[0] for _ in range(3)] == [200, 200, 429]
    _status, body = call("GET", "book")
    (info,) = body["error"]["details"]
    assert info["metadata"]["quota_limit"] == "ReadRequestsPerMinutePerProject"
    assert info["metadata"]["quota_limit_value"] == "2"
    assert batch(call, append("a"))[0] == 200  # writes are counted apart


def test_access_is_checked(google: Google, call: Any) -> None:
    google.books["book"].editors = {"bob"}
    assert call("GET", "book")[0] == 403
    google.books["book"].viewers = {"ann"}
    assert call("GET", "book")[0] == 200
    assert batch(call, append("a"))[0] == 403
    assert call("GET", "other")[0] == 404
    google.tokens.expire()
    assert call("GET", "book")[0] == 401


def form(google: Google, **fields: str) -> tuple[int, Any]:
    from urllib.parse import urlencode

    fields = {"client_id": "client", "client_secret": "secret", **fields}
    return google.handle("POST", "/token", "", urlencode(fields).encode())


def test_refresh_tokens_rotate_and_their_reuse_ends_the_grant(google: Google) -> None:
    google.tokens.rotates = True
    first = google.tokens.consent("ann")
    status, body = form(google, grant_type="refresh_token", refresh_token=first)
    assert (status, google.tokens.user_of(body["access_token"])) == (200, "ann")
    second = body["refresh_token"]
    status, again = form(google, grant_type="refresh_token", refresh_token=first)
    assert (status, again["error"]) == (400, "invalid_grant")
    status, again = form(google, grant_type="refresh_token", refresh_token=second)
    assert (status, again["error"]) == (400, "invalid_grant")
    assert google.tokens.user_of(body["access_token"]) is None
    status, again = form(google, client_secret="x")
    assert again["error"] == "unsupported_grant_type"


def test_googles_own_client_can_use_it(google: Google, book: Book) -> None:
    google_auth = pytest.importorskip("google.oauth2.credentials")
    discovery = pytest.importorskip("googleapiclient.discovery")
    credentials = google_auth.Credentials(google.tokens.new_access("ann"))
    with serving(google) as url:
        service = discovery.build_from_document(
            description(), credentials=credentials, client_options={"api_endpoint": url}
        )
        sheets = service.spreadsheets()
        body = {"requests": [create(7), append("Ann", "=1+1")]}
        answer = sheets.batchUpdate(spreadsheetId="book", body=body).execute()
        assert len(answer["replies"]) == 2
        found = sheets.values().get(spreadsheetId="book", range="Answers!A1:B1").execute()
        assert found["values"] == [["Ann", "=1+1"]]
        entry = sheets.developerMetadata().get(spreadsheetId="book", metadataId=7).execute()
        assert entry["metadataValue"] == "v"
        http_error = pytest.importorskip("googleapiclient.errors").HttpError
        with pytest.raises(http_error, match="already exists") as caught:
            sheets.batchUpdate(spreadsheetId="book", body=body).execute()
        assert caught.value.status_code == 400
        tabs = sheets.get(spreadsheetId="book", ranges="Answers!1:1", fields="sheets").execute()
        assert [tab["properties"]["title"] for tab in tabs["sheets"]] == ["Answers"]
