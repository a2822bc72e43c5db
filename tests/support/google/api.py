"""The stand-in without HTTP: takes requests and returns answers."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.google.a1 import Area
from tests.support.google.book import Book, Refused, Tab, entries_at, value_of
from tests.support.google.quotas import Failed, Quotas, error_info
from tests.support.google.requests import apply, matching
from tests.support.google.schema import (
    NotInSchema,
    answer_schema,
    check,
    check_mask,
    check_path,
    masked,
    request_schema,
)
from tests.support.google.tokens import TokenServer

#: Seconds after which Google ends a request.
CAP = 180.0


class NoAnswer(Exception):
    """The connection ends without an answer."""


@dataclass
class Fate:
    """What happens to a ``batchUpdate``.

    Attributes:
        kind: ``lost`` (executed, but the answer is lost), ``dropped`` (never executed), ``late``
            (no answer; executed by :meth:`Google.arrive`), ``held`` (executed and answered when
            ``released`` is set, or not executed after the cap), ``kept`` (executed at once,
            answered when ``released`` is set), ``failed`` (500, not executed), ``failed_late``
            (503, executed).
        reached: set when the request has arrived; for ``kept``, when it is executed.
    """

    kind: str
    released: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


class Google:
    """Google Sheets and its token server.

    Attributes:
        books: spreadsheets by id.
        calls: number of calls by method, such as ``spreadsheets.batchUpdate``.
        fates: what happens to the next ``batchUpdate`` calls; others are executed at once.
        late: requests that have not arrived yet.
        problems: requests and answers that are not as Google describes them.
        cap: seconds after which a request is ended.
    """

    def __init__(self, quotas: Quotas | None = None) -> None:
        self.books: dict[str, Book] = {}
        self.tokens = TokenServer()
        self.quotas = quotas or Quotas(per_project=10**9, per_user=10**9)
        self.calls: Counter[str] = Counter()
        self.fates: deque[Fate] = deque()
        self.late: list[tuple[Book, dict[str, Any]]] = []
        self.problems: list[str] = []
        self.is_enabled = True
        self.cap = CAP
        self._lock = threading.RLock()

    def handle(
        self, method: str, target: str, token: str, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Answer a request.

        Raises:
            NoAnswer
        """
        url = urlsplit(target)
        query = parse_qsl(url.query, keep_blank_values=True)
        if url.path == "/token":
            with self._lock:
                return self.tokens.answer(dict(parse_qsl(body.decode())))
        try:
            id = check_path(method, url.path, query)
            found = self._answer(id, url.path, query, token, body)
            check(found, answer_schema(id))
            return 200, self._mask(found, answer_schema(id), query)
        except Failed as error:
            return error.code, error.body
        except Refused as error:
            return 400, Failed(400, str(error)).body
        except NotInSchema as error:
            with self._lock:
                self.problems.append(str(error))
            return 400, Failed(400, f"Invalid JSON payload received. {error}").body

    def arrive(self, index: int = 0) -> None:
        """A late request arrives: it is executed, or refused, with nobody to answer to."""
        book, body = self.late.pop(index)
        with self._lock, contextlib.suppress(Refused):
            self._execute(book, body)

    def _answer(
        self, id: str, path: str, query: list[tuple[str, str]], token: str, body: bytes
    ) -> dict[str, Any]:
        data = json.loads(body) if body else {}
        if schema := request_schema(id):
            check(data, schema)
        match = re.match(r"/v4/spreadsheets/([^/:]+)(.*)", path)
        assert match
        name, rest = unquote(match[1]), match[2]
        is_write = id.endswith("batchUpdate")
        fate: Fate | None = None
        with self._lock:
            book = self._admit(id, name, token, is_write=is_write)
            if is_write and self.fates:
                fate = self.fates.popleft()
            if fate is None:
                return self._run(id, book, name, rest, query, data)
        return self._with_fate(fate, id, book, name, data)

    def _with_fate(
        self, fate: Fate, id: str, book: Book, name: str, data: dict[str, Any]
    ) -> dict[str, Any]:
        if fate.kind != "kept":
            fate.reached.set()
        if fate.kind == "held" and not fate.released.wait(self.cap):
            raise Failed(503, "The service is currently unavailable.")
        with self._lock:
            match fate.kind:
                case "dropped":
                    raise NoAnswer
                case "late":
                    self.late.append((book, data))
                    raise NoAnswer
                case "failed":
                    raise Failed(500, "Internal error encountered.")
            answer = self._run(id, book, name, "", [], data)
            if fate.kind == "lost":
                raise NoAnswer
            if fate.kind == "failed_late":
                raise Failed(503, "The service is currently unavailable.")
        if fate.kind == "kept":
            fate.reached.set()
            fate.released.wait(self.cap)
        return answer

    def _admit(self, id: str, name: str, token: str, *, is_write: bool) -> Book:
        self.calls[id] += 1
        user = self.tokens.user_of(token)
        if user is None:
            raise Failed(401, "Request had invalid authentication credentials.")
        if not self.is_enabled:
            raise Failed(403, "Google Sheets API is disabled.", error_info("SERVICE_DISABLED"))
        self.quotas.take("write" if is_write else "read", user)
        book = self.books.get(name)
        if book is None:
            raise Failed(404, "Requested entity was not found.")
        allowed = book.editors if is_write or book.editors is None else book.editors | book.viewers
        if allowed is not None and user not in allowed:
            raise Failed(403, "The caller does not have permission")
        return book

    def _run(
        self,
        id: str,
        book: Book,
        name: str,
        rest: str,
        query: list[tuple[str, str]],
        data: dict[str, Any],
    ) -> dict[str, Any]:
        match id:
            case "spreadsheets.batchUpdate":
                replies = self._execute(book, data)
                answer: dict[str, Any] = {"spreadsheetId": name, "replies": replies}
                if data.get("includeSpreadsheetInResponse"):
                    ranges = data.get("responseRanges") or []
                    answer["updatedSpreadsheet"] = spreadsheet(book, name, ranges)
                return answer
            case "spreadsheets.get":
                return spreadsheet(book, name, [value for key, value in query if key == "ranges"])
            case "spreadsheets.values.get":
                return _values(book, unquote(rest.removeprefix("/values/")), dict(query))
            case "spreadsheets.developerMetadata.search":
                filters = data.get("dataFilters") or []
                found = {
                    entry["metadataId"]: {"developerMetadata": entry, "dataFilters": [one]}
                    for one in filters
                    for entry in matching(book, one)
                }
                return {"matchedDeveloperMetadata": list(found.values())} if found else {}
            case "spreadsheets.developerMetadata.get":
                wanted = int(rest.rpartition("/")[2])
                entries = matching(book, {"developerMetadataLookup": {"metadataId": wanted}})
                if not entries:
                    raise Failed(404, "No developer metadata with that ID.")
                return entries[0]
        raise AssertionError(f"the stand-in does not know {id}")

    def _execute(self, book: Book, data: dict[str, Any]) -> list[dict[str, Any]]:
        for text in data.get("responseRanges") or ():
            book.find(text)
        copy = book.copy()
        replies = apply(copy, data.get("requests") or [])
        book.replace(copy)
        return replies

    def _mask(
        self, found: dict[str, Any], schema: str, query: list[tuple[str, str]]
    ) -> dict[str, Any]:
        mask = dict(query).get("fields")
        if not mask:
            return found
        check_mask(mask, schema)
        picked: dict[str, Any] = masked(found, mask)
        return picked


def spreadsheet(book: Book, name: str, ranges: list[str]) -> dict[str, Any]:
    """A ``Spreadsheet``: all tabs, or the tabs and areas of ranges with their cells."""
    areas = [book.find(text) for text in ranges]
    found: dict[str, Any] = {
        "spreadsheetId": name,
        "properties": {"title": "Answers", "timeZone": book.zone, "locale": "en_GB"},
        "sheets": [],
    }
    if entries := list(entries_at(book)):
        found["developerMetadata"] = entries
    for index, tab in enumerate(book.tabs):
        here = [area for one, area in areas if one.sheet_id == tab.sheet_id]
        if ranges and not here:
            continue
        sheet: dict[str, Any] = {"properties": _properties(tab, index)}
        if entries := list(entries_at(book, tab.sheet_id)):
            sheet["developerMetadata"] = entries
        if here:
            sheet["data"] = [_grid(book, tab, area) for area in here]
        found["sheets"].append(sheet)
    return found


def _properties(tab: Tab, index: int) -> dict[str, Any]:
    found = {
        "sheetId": tab.sheet_id,
        "title": tab.title,
        "index": index,
        "sheetType": "GRID",
        "gridProperties": {"rowCount": tab.rows, "columnCount": tab.columns},
    }
    return found | ({"hidden": True} if tab.hidden else {})


def _grid(book: Book, tab: Tab, area: Area) -> dict[str, Any]:
    top, left = area.top or 0, area.left or 0
    bottom = min(tab.rows, tab.rows if area.bottom is None else area.bottom)
    right = min(tab.columns, tab.columns if area.right is None else area.right)

    def metadata(dimension: str, start: int, end: int) -> list[dict[str, Any]]:
        lines = []
        for index in range(start, end):
            entries = list(entries_at(book, tab.sheet_id, dimension, index))
            lines.append({"pixelSize": 21} | ({"developerMetadata": entries} if entries else {}))
        return lines

    rows = [
        {"values": [_shown_cell(cell) for cell in row[left:right]]} for row in tab.cells[top:bottom]
    ]
    found: dict[str, Any] = {
        "rowMetadata": metadata("ROWS", top, bottom),
        "columnMetadata": metadata("COLUMNS", left, right),
    }
    # Zeros and empty lists are omitted, as in all answers of Google.
    return found | {
        key: value
        for key, value in (("rowData", rows), ("startRow", top), ("startColumn", left))
        if value
    }


def _shown_cell(cell: dict[str, Any]) -> dict[str, Any]:
    value = value_of(cell)
    text = str(value).upper() if isinstance(value, bool) else str(value)
    return cell if value is None else cell | {"formattedValue": text}


def _values(book: Book, text: str, query: dict[str, str]) -> dict[str, Any]:
    tab, area = book.find(text)
    rows = [row[area.left : area.right] for row in tab.cells[area.top : area.bottom]]
    lines = [["" if value_of(cell) is None else value_of(cell) for cell in row] for row in rows]
    dimension = query.get("majorDimension", "ROWS")
    if dimension == "COLUMNS":
        width = max(map(len, lines), default=0)
        lines = [
            [line[index] if index < len(line) else "" for line in lines] for index in range(width)
        ]
    for line in lines:
        while line and line[-1] == "":
            line.pop()
    while lines and not lines[-1]:
        lines.pop()
    return {"range": text, "majorDimension": dimension} | ({"values": lines} if lines else {})
