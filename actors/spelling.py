"""Finds unknown keys of a job that are probably misspelled names of its fields.

A job with the key ``metod`` would be a valid job, sent with POST instead of PUT. Unknown keys that
resemble no field are allowed: publishers add keys of their own, and so do newer versions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from difflib import SequenceMatcher
from functools import cache, lru_cache
from typing import Any, get_args

from ..core.errors import InvalidJob
from .model import JobModel, name_in_error

logger = logging.getLogger("formrelay.actors")

#: Minimum similarity of two names: 1 is equal. ``session`` has 0.88 with ``sessionId``.
_SIMILAR = 0.84
#: Longer names are compared with no field.
_MAX_NAME = 40
#: In a short name like ``id``, another letter makes another name.
_MIN_NAME = 4
#: The index of an item of a list, in a path.
_INDEX = re.compile(r"(?<=\.)[0-9]+\.")


def refuse_misspelled(actor_name: str, payload: Any, metadata: Any) -> None:
    """Refuse a job that is about to be sent if one of its keys is probably misspelled.

    Raises:
        InvalidJob: names each such key and the field that it resembles.
    """
    if found := _in_job(payload, metadata):
        raise InvalidJob(
            f"{actor_name}: " + "; ".join(unknown_key(key, name) for key, name in found[:5])
        )


def unknown_key(key: object, name: str) -> str:
    """The error for a key that resembles the field ``name``, and so is no payload value."""
    return f"{key}: unknown key, probably misspelled: write {name}"


def warn_of_misspelled(actor_name: str, payload: Any, metadata: Any) -> None:
    """Warn of such keys in a job that is about to run, once per process for each key.

    Not an error: the job may be from a newer version or from a publisher in another language,
    whose jobs would all be dead-lettered.
    """
    for key, name in _in_job(payload, metadata):
        _warn(actor_name, _INDEX.sub("", key), name)


@lru_cache(maxsize=1024)
def _warn(actor_name: str, key: str, name: str) -> None:
    logger.warning(
        "unknown key in a job, probably misspelled",
        extra={"actor": actor_name, "key": key, "nearest": name},
    )


def _in_job(payload: Any, metadata: Any) -> list[tuple[str, str]]:
    found = [(f"payload.{key}", name) for key, name in misspelled(payload)]
    if metadata.__pydantic_extra__:
        found += [(f"metadata.{key}", name) for key, name in misspelled(metadata)]
    return found


def misspelled(payload: Any) -> list[tuple[str, str]]:
    """The path of each key that is probably misspelled, and the name of the field.

    A key resembles a field only if that field is not given.
    """
    if isinstance(payload, JobModel) and (payload.__pydantic_extra__ or _nested(type(payload))):
        return list(_misspelled(payload, ""))
    return []


def _misspelled(model: JobModel, path: str) -> Iterator[tuple[str, str]]:
    kind = type(model)
    for key in model.__pydantic_extra__ or ():
        if not kind.has_foreign_keys:
            name = nearest(key, _names(kind), model.model_fields_set)
            if name is not None:
                yield path + name_in_error(key), kind.model_fields[name].alias or name
    for name in _nested(kind):
        value = getattr(model, name)
        if isinstance(value, JobModel):
            yield from _misspelled(value, f"{path}{name}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from _misspelled(item, f"{path}{name}.{index}.")


@cache
def _nested(kind: type[JobModel]) -> tuple[str, ...]:
    """The fields of a model that hold models or lists of models."""
    return tuple(name for name, field in kind.model_fields.items() if _holds(field.annotation))


def _holds(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, JobModel):
        return True
    return any(map(_holds, get_args(annotation)))


@cache
def _names(kind: type[JobModel]) -> tuple[str, ...]:
    return tuple(kind.model_fields)


def nearest(key: str, names: tuple[str, ...], given: Collection[str] = ()) -> str | None:
    """The name that a key probably means; None if it resembles none, or only ``given`` names."""
    return next((name for name in _near(key, names) if name not in given), None)


@lru_cache(maxsize=4096)
def _near(key: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that a key resembles, the most similar first."""
    if len(key) > _MAX_NAME:
        return ()
    likeness = {name: _likeness(_plain(key), _plain(name)) for name in names}
    near = [name for name, ratio in likeness.items() if ratio >= _SIMILAR]
    return tuple(sorted(near, key=lambda name: -likeness[name]))


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if max(len(one), len(other)) < _MIN_NAME:
        return 0.0
    if _is_one_edit(one, other):
        return 0.99
    return SequenceMatcher(None, one, other).ratio()


def _is_one_edit(one: str, other: str) -> bool:
    """Whether one letter is added, missing or another, or two neighbours are swapped."""
    short, long = sorted((one, other), key=len)
    same = next(
        (i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short)
    )
    if len(short) != len(long):
        return short[same:] == long[same + 1 :]
    swapped = short[same : same + 2] == long[same : same + 2][::-1]
    return short[same + 1 :] == long[same + 1 :] or (
        swapped and short[same + 2 :] == long[same + 2 :]
    )
