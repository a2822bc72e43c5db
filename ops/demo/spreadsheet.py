"""A spreadsheet with the part of the Google Sheets API that the workers use. It is not Google.

``python -m formrelay.ops.demo.spreadsheet`` reads its configuration from standard input, see
:mod:`.server`: ``{"fd": listening socket, "token": access token}``. It has one tab, and loses every
third answer to a call that wrote rows. ``GET /stats`` returns the counts.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .server import Handler, configuration, serve

#: Id of the spreadsheet, title of its tab, the column with the key of a row, and the connection.
SPREADSHEET, TAB, KEY, CONNECTION = "demo", "Answers", "Submission", "demo"
#: The answer to every third call is lost.
LOSES_EVERY = 3

Json = dict[str, Any]


class RefusedCall(Exception):
    """A call that is not executed (400)."""


class Spreadsheet:
    """One tab and its developer metadata. Thread-safe: a call runs alone.

    Attributes:
        rows: values of the cells, the headers first.
        entries: developer metadata by its id.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: list[list[Any]] = []
        self.entries: dict[int, Json] = {}
        self.columns = 26
        self.calls = self.lost = 0

    def batch_update(self, requests: list[Json]) -> Json:
        """Execute all requests, or none; return the updated spreadsheet."""
        before = ([list(row) for row in self.rows], dict(self.entries), self.columns)
        try:
            for index, request in enumerate(requests):
                ((kind, given),) = request.items()
                try:
                    getattr(self, f"_{kind}")(given)
                except (AttributeError, RefusedCall):
                    raise RefusedCall(f"Invalid requests[{index}].{kind}: not possible") from None
        except RefusedCall:
            self.rows, self.entries, self.columns = before
            raise
        self.calls += 1
        return {"spreadsheetId": SPREADSHEET, "updatedSpreadsheet": self.layout()}

    def layout(self) -> Json:
        """The spreadsheet with its row of headers."""
        headers = self.rows[0] if self.rows else []
        columns = [{"developerMetadata": self._at("COLUMNS", at)} for at in range(self.columns)]
        data = {
            "rowMetadata": [{"developerMetadata": self._at("ROWS", 0)}],
            "columnMetadata": columns,
            "rowData": [{"values": [{"formattedValue": str(text)} for text in headers]}],
        }
        grid = {"rowCount": max(1000, len(self.rows)), "columnCount": self.columns}
        sheet = {
            "properties": {"sheetId": 0, "title": TAB, "gridProperties": grid},
            "developerMetadata": [
                each for each in self.entries.values() if "sheetId" in each["location"]
            ],
            "data": [data],
        }
        return {"properties": {"timeZone": "Etc/UTC"}, "sheets": [sheet]}

    def search(self, filters: list[Json]) -> Json:
        """The developer metadata that has one of some ids."""
        ids = [each["developerMetadataLookup"]["metadataId"] for each in filters]
        found = [{"developerMetadata": self.entries[id]} for id in ids if id in self.entries]
        return {"matchedDeveloperMetadata": found}

    def stats(self) -> dict[str, int]:
        """The counts of rows, repeated rows, calls and lost answers."""
        headers, *rows = self.rows or [[]]
        at = headers.index(KEY) if KEY in headers else 0
        keys = Counter(row[at] for row in rows if len(row) > at)
        repeated = keys.total() - len(keys)
        return {"rows": len(rows), "repeated": repeated, "calls": self.calls, "lost": self.lost}

    def _at(self, dimension: str, index: int) -> list[Json]:
        place = (dimension, index)
        return [each for each in self.entries.values() if _place(each) == place]

    def _createDeveloperMetadata(self, given: Json) -> None:
        entry = given["developerMetadata"]
        if entry["metadataId"] in self.entries:
            raise RefusedCall
        self.entries[entry["metadataId"]] = entry

    def _deleteDeveloperMetadata(self, given: Json) -> None:
        lookup = given["dataFilter"]["developerMetadataLookup"]
        self.entries.pop(lookup["metadataId"], None)

    def _appendDimension(self, given: Json) -> None:
        self.columns += given["length"]

    def _updateCells(self, given: Json) -> None:
        at, first = given["start"].get("rowIndex", 0), given["start"].get("columnIndex", 0)
        for row, line in enumerate(given["rows"], at):
            while len(self.rows) <= row:
                self.rows.append([])
            cells = self.rows[row]
            cells.extend([None] * (first + len(line["values"]) - len(cells)))
            cells[first : first + len(line["values"])] = map(_value, line["values"])

    def _insertDimension(self, given: Json) -> None:
        span = given["range"]
        if span["startIndex"] < max(map(len, self.rows), default=0):
            raise RefusedCall  # only at the right end
        self.columns += span["endIndex"] - span["startIndex"]

    def _appendCells(self, given: Json) -> None:
        self.rows += [[_value(cell) for cell in line["values"]] for line in given["rows"]]


def _place(entry: Mapping[str, Any]) -> tuple[str, int] | None:
    span = entry["location"].get("dimensionRange")
    return None if span is None else (span["dimension"], span.get("startIndex", 0))


def _value(cell: Mapping[str, Any]) -> Any:
    return next(iter(cell.get("userEnteredValue", {}).values()), None)


def spreadsheet(token: str, sheet: Spreadsheet) -> type[Handler]:
    """Make the request handler."""

    class SheetHandler(Handler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.read())

        def _answer(self, body: bytes) -> None:
            path = urlsplit(self.path).path
            if path != "/stats" and self.headers["Authorization"] != f"Bearer {token}":
                self._refuse(401, "invalid authentication credentials")
                return
            try:
                with sheet.lock:
                    found = self._found(path, json.loads(body) if body else {})
            except RefusedCall as error:
                self._refuse(400, str(error))
                return
            if found is None:
                self._refuse(404, "Requested entity was not found.")
            elif path.endswith(":batchUpdate") and sheet.calls % LOSES_EVERY == 0:
                sheet.lost += 1
                self.close_connection = True  # executed, and nobody gets the answer
            else:
                self.answer(200, found)

        def _found(self, path: str, body: Json) -> Json | None:
            match path.removeprefix(f"/v4/spreadsheets/{SPREADSHEET}"):
                case "/stats":
                    return sheet.stats()
                case "":
                    return sheet.layout()
                case ":batchUpdate":
                    return sheet.batch_update(body["requests"])
                case "/developerMetadata:search":
                    return sheet.search(body["dataFilters"])
                case values if values.startswith("/values/"):
                    return {"values": sheet.rows[:50]} if sheet.rows else {}
            return None

        def _refuse(self, code: int, message: str) -> None:
            self.answer(code, {"error": {"code": code, "message": message}})

    return SheetHandler


if __name__ == "__main__":
    config = configuration()
    serve(config["fd"], spreadsheet(config["token"], Spreadsheet()))
