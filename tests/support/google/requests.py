"""The requests of a ``batchUpdate`` that the stand-in knows."""

from __future__ import annotations

from typing import Any

from tests.support.google.book import Book, Refused, shown
from tests.support.google.schema import NotInSchema, check_mask


def apply(book: Book, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply requests to a spreadsheet; returns the replies.

    Raises:
        Refused: a request is invalid; the spreadsheet is then partly changed.
    """
    if not requests:
        raise Refused("Must specify at least one request.")
    replies = []
    for index, request in enumerate(requests):
        if len(request) != 1:
            raise Refused(f"Invalid requests[{index}]: expected one kind of request.")
        ((kind, given),) = request.items()
        try:
            replies.append(_KINDS[kind](book, given) or {})
        except Refused as error:
            raise Refused(f"Invalid requests[{index}].{kind}: {error}") from None
    return replies


def _create_entry(book: Book, given: dict[str, Any]) -> dict[str, Any]:
    entry = book.create_entry(given["developerMetadata"])
    return {"createDeveloperMetadata": {"developerMetadata": shown(entry)}}


def _delete_entry(book: Book, given: dict[str, Any]) -> dict[str, Any]:
    found = matching(book, given["dataFilter"])
    if not found and book.refuses_empty_deletes:
        raise Refused("No developer metadata matches the filter.")
    for entry in found:
        del book.entries[entry["metadataId"]]
    return {"deleteDeveloperMetadata": {"deletedDeveloperMetadata": found} if found else {}}


def _append_cells(book: Book, given: dict[str, Any]) -> None:
    tab, fields = book.by_id(given.get("sheetId", 0)), _fields(given)
    for row in given["rows"]:
        at = len(tab.cells)
        if at >= tab.rows:
            book.grow(tab, rows=1)
        tab.put(at, 0, row.get("values", []), fields)


def _update_cells(book: Book, given: dict[str, Any]) -> None:
    fields = _fields(given)
    if "range" in given:
        raise Refused("the stand-in knows only updateCells with start")
    start = given["start"]
    tab = book.by_id(start.get("sheetId", 0))
    for index, row in enumerate(given["rows"], start.get("rowIndex", 0)):
        tab.put(index, start.get("columnIndex", 0), row.get("values", []), fields)


def _append_dimension(book: Book, given: dict[str, Any]) -> None:
    tab, length = book.by_id(given.get("sheetId", 0)), given["length"]
    if length <= 0:
        raise Refused("length must be positive")
    book.grow(tab, **{given["dimension"].lower(): length})


def _insert_dimension(book: Book, given: dict[str, Any]) -> None:
    span = given["range"]
    tab = book.by_id(span.get("sheetId", 0))
    start, end = span.get("startIndex", 0), span["endIndex"]
    if span["dimension"] != "COLUMNS" or start > tab.columns or end <= start:
        raise Refused("Invalid range")
    if given.get("inheritFromBefore") and not start:
        raise Refused("inheritFromBefore cannot be true at index 0")
    book.insert_columns(tab, start, end - start)


_KINDS = {
    "createDeveloperMetadata": _create_entry,
    "deleteDeveloperMetadata": _delete_entry,
    "appendCells": _append_cells,
    "updateCells": _update_cells,
    "appendDimension": _append_dimension,
    "insertDimension": _insert_dimension,
}


def matching(book: Book, data_filter: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of developer metadata that a filter selects."""
    lookup = data_filter.get("developerMetadataLookup")
    if lookup is None or set(lookup) - {"metadataId", "metadataKey", "metadataValue", "visibility"}:
        raise Refused("the stand-in knows only lookups by id, key, value and visibility")
    found = [shown(entry) for entry in book.entries.values()]
    return [entry for entry in found if all(entry[key] == lookup[key] for key in lookup)]


def _fields(given: dict[str, Any]) -> str:
    fields: str = given.get("fields", "")
    try:
        check_mask(fields, "CellData")
    except NotInSchema as error:
        raise Refused(str(error)) from None
    if not fields:
        raise Refused("At least one field must be listed in 'fields'.")
    return fields
