"""Entries of developer metadata that formrelay creates in a spreadsheet.

Ids are unique within a spreadsheet, so an entry is also a fence: of two calls that create the same
id, one fails as a whole. Values are digests and random tokens; they contain no answers.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from typing import Any

#: Keys: a tab by its title in jobs, the row of headers, a column of a field, a call.
TAB, HEADER, COLUMN, CALL = "fr.tab", "fr.header", "fr.column", "fr"
#: Value of the entry of a call that must not be executed any more.
VOID = "void"


def new_token() -> str:
    """A random token of 128 bits, 22 characters."""
    return urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")


def short_digest(text: str) -> str:
    """16 characters that stand for a text."""
    data = text.encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(hashlib.blake2b(data, digest_size=12).digest()).decode()


def entry_id(*parts: object) -> int:
    """The id of an entry: a positive int32, hashed from what it is about."""
    data = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(data, digest_size=4).digest()) & 0x7FFF_FFFF
    return number or 1


def token_id(token: str) -> int:
    """The id of the entry of a call."""
    return entry_id(CALL, token)


def header_id(sheet_id: int) -> int:
    """The id of the entry of the row of headers."""
    return entry_id(HEADER, sheet_id)


def create(id: int, key: str, value: str, location: dict[str, Any]) -> dict[str, Any]:
    """The request that creates an entry. All programs with access to the spreadsheet see it."""
    entry = {
        "metadataId": id,
        "metadataKey": key,
        "metadataValue": value,
        "location": location,
        "visibility": "DOCUMENT",
    }
    return {"createDeveloperMetadata": {"developerMetadata": entry}}


def create_call(token: str, value: str) -> dict[str, Any]:
    """The request that creates the entry of a call; it fails if there is one already.

    Args:
        value: the token, or :data:`VOID`.
    """
    return create(token_id(token), CALL, value, {"spreadsheet": True})


def delete_call(token: str) -> dict[str, Any]:
    """The request that deletes the entry of a call."""
    lookup = {"metadataId": token_id(token)}
    return {"deleteDeveloperMetadata": {"dataFilter": {"developerMetadataLookup": lookup}}}


def dimension(sheet_id: int, kind: str, index: int) -> dict[str, Any]:
    """The location of a row (``ROWS``) or column (``COLUMNS``)."""
    span = {
        "sheetId": sheet_id,
        "dimension": kind,
        "startIndex": index,
        "endIndex": index + 1,
    }
    return {"dimensionRange": span}
