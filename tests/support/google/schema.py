"""Checks requests and answers against Google's description of the Sheets API, ``sheets.v4.json``.

The file is part of the package google-api-python-client.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_LIMITS = {"int32": 2**31, "uint32": 2**32}


class NotInSchema(Exception):
    """A request or answer is not as Google describes it."""


@cache
def description() -> dict[str, Any]:
    """The description (a Google API discovery document)."""
    folder = files("googleapiclient") / "discovery_cache" / "documents"
    found: dict[str, Any] = json.loads((folder / "sheets.v4.json").read_text())
    return found


def check(value: object, schema: str) -> None:
    """Check a value against a named schema.

    Raises:
        NotInSchema
    """
    _check(value, {"$ref": schema}, schema)


def _check(value: Any, schema: dict[str, Any], where: str) -> None:
    if name := schema.get("$ref"):
        schema = description()["schemas"][name]
    kind = schema.get("type", "any")
    if kind == "any":
        return
    if kind in ("integer", "number"):
        allowed: tuple[type, ...] = (int,) if kind == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise NotInSchema(f"{where}: expected {kind}, got {value!r:.80}")
        if abs(value) >= _LIMITS.get(schema.get("format", ""), 2**1023):
            raise NotInSchema(f"{where}: {value!r:.80} is too large")
        return
    if not isinstance(value, _TYPES[kind]):
        raise NotInSchema(f"{where}: expected {kind}, got {value!r:.80}")
    _check_content(value, kind, schema, where)


def _check_content(value: Any, kind: str, schema: dict[str, Any], where: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise NotInSchema(f"{where}: expected one of {schema['enum']}, got {value!r:.80}")
    if kind == "array":
        for index, item in enumerate(value):
            _check(item, schema["items"], f"{where}[{index}]")
    if kind == "object":
        known = schema.get("properties", {})
        for key, item in value.items():
            inner = known.get(key) or schema.get("additionalProperties")
            if inner is None:
                raise NotInSchema(f"{where}: unknown name {key!r}")
            _check(item, inner, f"{where}.{key}")


def check_path(method: str, path: str, query: list[tuple[str, str]]) -> str:
    """Check a request line; returns the id of its method, such as ``spreadsheets.batchUpdate``.

    Raises:
        NotInSchema
    """
    for id, found in _methods().items():
        if found["httpMethod"] == method and _pattern(found["path"]).match(path.lstrip("/")):
            known = {*found["parameters"], *description()["parameters"]}
            for name, value in query:
                if name not in known:
                    raise NotInSchema(f"{id}: unknown parameter {name!r}")
                enum = found["parameters"].get(name, {}).get("enum")
                if enum and value not in enum:
                    raise NotInSchema(f"{id}: {name} is {value!r}")
            return id
    raise NotInSchema(f"no method {method} {path}")


def answer_schema(id: str) -> str:
    """The schema of a method's answer."""
    name: str = _methods()[id]["response"]["$ref"]
    return name


def request_schema(id: str) -> str | None:
    """The schema of a method's request; None if it has no body."""
    found = _methods()[id].get("request")
    return found and found["$ref"]


@cache
def _methods() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def collect(resources: dict[str, Any]) -> None:
        for resource in resources.values():
            for method in resource.get("methods", {}).values():
                found[method["id"].removeprefix("sheets.")] = method
            collect(resource.get("resources", {}))

    collect(description()["resources"])
    return found


@cache
def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+\}", path)
    return re.compile("[^/:]+".join(map(re.escape, parts)) + r"\Z")


def masked(value: Any, mask: str) -> Any:
    """The parts of an answer that the parameter ``fields`` selects."""
    return _pick(value, _parse(mask))


def check_mask(mask: str, schema: str) -> None:
    """Check that a mask names fields of a schema.

    Raises:
        NotInSchema
    """
    _check_mask(_parse(mask), {"$ref": schema}, mask)


def _check_mask(mask: dict[str, Any], schema: dict[str, Any], text: str) -> None:
    while "$ref" in schema or "items" in schema:
        schema = schema.get("items") or description()["schemas"][schema["$ref"]]
    for name, inner in mask.items():
        if name == "*":
            continue
        if name not in schema.get("properties", {}):
            raise NotInSchema(f"Invalid field selection {name} in {text}")
        _check_mask(inner, schema["properties"][name], text)


def _parse(mask: str) -> dict[str, Any]:
    tokens = re.findall(r"[\w*]+|[(),./]", mask)
    if "".join(tokens) != mask:
        raise NotInSchema(f"Invalid field mask {mask}")
    position = 0

    def group() -> dict[str, Any]:
        nonlocal position
        found: dict[str, Any] = {}
        while position < len(tokens) and tokens[position] != ")":
            if tokens[position] == ",":
                position += 1
                continue
            inner = found.setdefault(tokens[position], {})
            position += 1
            while position < len(tokens) and tokens[position] in "./":
                inner = inner.setdefault(tokens[position + 1], {})
                position += 2
            if position < len(tokens) and tokens[position] == "(":
                position += 1
                inner.update(group())
                position += 1
        return found

    return group()


def _pick(value: Any, mask: dict[str, Any]) -> Any:
    if not mask or "*" in mask:
        return value
    if isinstance(value, list):
        return [_pick(item, mask) for item in value]
    if isinstance(value, dict):
        return {key: _pick(value[key], inner) for key, inner in mask.items() if key in value}
    return value
