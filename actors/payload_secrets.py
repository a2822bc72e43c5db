"""Encrypts the secrets of payloads: the values of the fields that a schema marks.

The marked values are taken out of the payload and put into one encrypted text, the argument
``encrypted`` beside ``payload`` and ``metadata``. In the place of each value stays an object like
``{"$encrypted": "0f31…"}``, which no schema accepts. Its digest is the same for equal values.

The encrypted text also has the name of the actor and a digest of the rest of the payload: it is
worth nothing in another job, and a job that was changed does not run.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin
from urllib.parse import urlsplit

import orjson
from dramatiq import Message
from pydantic import BaseModel

from ..config import EncryptionSettings, get_settings
from ..core.clock import SYSTEM_CLOCK
from ..core.encryption import KeyList, KeyMissing, NotDecryptable, key_id
from ..core.errors import DeferReason, InvalidJob, NotNow
from ..middleware.delivery import BATCH, Batch
from .origins import current_delivery

logger = logging.getLogger("formrelay.actors")

#: The argument with the encrypted text.
ENCRYPTED = "encrypted"
#: The key of the object in the place of a value, and of the origin of a URL in that object.
PLACE, ORIGIN = "$encrypted", "origin"
#: The arguments of an actor by position.
_PARTS = ("payload", "metadata")
#: How long a job waits for its key.
_WAIT = timedelta(minutes=1)
#: Seconds between two log lines about a missing key.
_LOG_INTERVAL = 60.0
#: Maximum number of keys whose log lines are remembered.
_MAX_LOGGED = 100


@dataclass(frozen=True, slots=True)
class Secret:
    """Marks a field of a schema as secret: ``Annotated[str, SECRET]``.

    Attributes:
        is_url: whether it is a URL, whose origin stays readable.
    """

    is_url: bool = False


#: The marks.
SECRET, SECRET_URL = Secret(), Secret(is_url=True)


@dataclass(frozen=True, slots=True)
class _Each:
    """The secrets in each item of a list, or in each value of an object."""

    kind: type
    item: Secrets


#: Where the secrets of a JSON value are: it is one, its items have some, or its fields have some.
Secrets: TypeAlias = Secret | _Each | Mapping[str, Any]


class PayloadKeyMissing(NotNow):
    """The worker lacks the key that encrypted the secrets of the job."""

    reason = DeferReason.KEY_MISSING


# -- which values are secret ---------------------------------------------------------------


def secrets_of(kind: Any) -> Secrets | None:
    """Find the secrets of a type that pydantic validates; None if it has none."""
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        mark = next((each for each in marks if isinstance(each, Secret)), None)
        return mark or secrets_of(inner)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _of_model(kind) or None
    if get_origin(kind) in (Union, UnionType):
        return next((found for each in get_args(kind) if (found := secrets_of(each))), None)
    if get_origin(kind) in (list, dict):
        item = secrets_of(get_args(kind)[-1])
        return None if item is None else _Each(get_origin(kind), item)
    return None


def _of_model(model: type[BaseModel]) -> dict[str, Secrets]:
    fields: dict[str, Secrets] = dict.fromkeys(getattr(model, "secret_keys", ()), SECRET)
    for name, info in model.model_fields.items():
        found = next((mark for mark in info.metadata if isinstance(mark, Secret)), None)
        if secrets := found or secrets_of(info.annotation):
            # Both names are accepted in a job of another publisher.
            fields |= {name: secrets, info.alias or name: secrets}
    return fields


def _take(
    secrets: Secrets, value: Any, path: tuple[str | int, ...], taken: list[tuple[Any, Any]]
) -> Any:
    """Copy a value without its secrets, which are added to ``taken`` with their paths."""
    if isinstance(secrets, Secret):
        if value is None or value in ("", [], {}):
            return value
        taken.append((path, value))
        return _place(value, is_url=secrets.is_url)
    if isinstance(secrets, _Each):
        item = secrets.item
        if secrets.kind is list and isinstance(value, list):
            return [_take(item, each, (*path, at), taken) for at, each in enumerate(value)]
        if secrets.kind is dict and isinstance(value, dict):
            return {name: _take(item, each, (*path, name), taken) for name, each in value.items()}
        return value
    if not isinstance(value, dict) or not (secrets.keys() & value.keys()):
        return value
    return {
        name: _take(secrets[name], item, (*path, name), taken) if name in secrets else item
        for name, item in value.items()
    }


def _place(value: Any, *, is_url: bool) -> dict[str, str]:
    """The object that stays in the place of a value."""
    place = {PLACE: payload_keys().digest(_json(value))}
    if is_url and (origin := _origin_of(value)):
        place[ORIGIN] = origin
    return place


def _origin_of(url: Any) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else ""
    except (ValueError, TypeError, AttributeError):  # of a job that its actor will refuse
        return ""


# -- encrypt -------------------------------------------------------------------------------


def encrypts() -> bool:
    """Whether the secrets of a job that is sent now are encrypted.

    What an encrypted job sends is encrypted without PAYLOAD_ENCRYPTION too.
    """
    section = get_settings().encryption
    return section.enabled or (section.keys is not None and _runs_encrypted_job())


def _runs_encrypted_job() -> bool:
    delivery = current_delivery()
    if delivery is None:
        return False
    calls = delivery.kwargs.get(BATCH, ()) if isinstance(delivery, Batch) else [delivery.kwargs]
    return any(ENCRYPTED in call for call in calls)


def encrypted_call(
    name: str, secrets: Secrets | None, call: dict[str, Any], *, if_possible: bool = False
) -> dict[str, Any]:
    """Encrypt the secrets of a job that is sent.

    Args:
        name: name of its actor.
        secrets: where they are in the payload.
        call: ``payload`` and ``metadata``, not changed.
        if_possible: encrypt without PAYLOAD_ENCRYPTION too, if there are keys.

    Returns:
        The same arguments if the job has no secrets, or this process does not encrypt.

    Raises:
        InvalidJob: a secret is not JSON.
    """
    if secrets is None:
        return call
    if not encrypts() and not (if_possible and get_settings().encryption.keys is not None):
        return call
    taken: list[tuple[Any, Any]] = []
    payload = _take(secrets, call.get("payload"), (), taken)
    if not taken:
        return call
    inside = {"actor": name, "rest": _digest(payload), "values": taken}
    return {**call, "payload": payload, ENCRYPTED: payload_keys().encrypt(_json(inside))}


def encrypted_message(message: Message[Any], secrets: Secrets | None) -> Message[Any]:
    """Encrypt the secrets of a message that another program has made.

    Returns:
        The same message if nothing is to be encrypted.
    """
    if secrets is None or not encrypts() or ENCRYPTED in message.kwargs:
        return message
    if len(message.args) > len(_PARTS) or message.kwargs.keys() - set(_PARTS):
        return message  # its actor will refuse it, or it is a batch
    call = dict(zip(_PARTS, message.args, strict=False)) | message.kwargs
    try:
        encrypted = encrypted_call(message.actor_name, secrets, call)
    except InvalidJob:  # not from JSON; the broker refuses it
        return message
    return message if encrypted is call else message.copy(args=(), kwargs=encrypted)


def reencrypted(kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Encrypt the secrets of a job again with the first key; None if that key has done it.

    Raises:
        KeyMissing, NotDecryptable: they cannot be decrypted.
    """
    text, keys = str(kwargs[ENCRYPTED]), payload_keys()
    if keys.ids[:1] == (key_id(text),):
        return None
    return {**kwargs, ENCRYPTED: keys.encrypt(keys.decrypt(text))}


# -- decrypt -------------------------------------------------------------------------------


def decrypted_call(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a job with its secrets in their places; the job is not changed.

    Raises:
        PayloadKeyMissing: ``PAYLOAD_KEYS`` does not have its key.
        InvalidJob: the encrypted text belongs to another job, or one of the two was changed.
    """
    call = dict(kwargs)
    text = call.pop(ENCRYPTED, None)
    if text is None:
        return call
    try:
        inside = orjson.loads(payload_keys().decrypt(text if isinstance(text, str) else ""))
    except KeyMissing as error:
        _log_missing(error.key_id)
        why = f"expected PAYLOAD_KEYS to have the key {error.key_id} that encrypted the job"
        raise PayloadKeyMissing(f"{why}: add this key", after=_WAIT) from None
    except NotDecryptable:
        raise _changed(name) from None
    payload = call.get("payload")
    if (inside["actor"], inside["rest"]) != (name, _digest(payload)):
        raise _changed(name)
    for path, value in inside["values"]:
        payload = _put(payload, path, value)
    return {**call, "payload": payload}


def decrypted_batch(
    name: str, batch: Sequence[dict[str, Any]]
) -> tuple[Sequence[dict[str, Any]], dict[int, BaseException]]:
    """Return the arguments of the jobs of a batch with their secrets, and errors by index."""
    if not any(ENCRYPTED in kwargs for kwargs in batch):
        return batch, {}
    calls = list(batch)
    failures: dict[int, BaseException] = {}
    for index, kwargs in enumerate(batch):
        try:
            calls[index] = decrypted_call(name, kwargs)
        except (PayloadKeyMissing, InvalidJob) as error:
            failures[index] = error
    return calls, failures


def readable_call(name: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments with their secrets if this process can decrypt them, else as given."""
    if ENCRYPTED not in kwargs:
        return kwargs
    try:
        return decrypted_call(name, kwargs)
    except (PayloadKeyMissing, InvalidJob):
        return kwargs


def put_back(edited: Any, original: Mapping[str, Any], name: str) -> Any:
    """Put the secrets of a job back into a copy of its arguments that an operator has edited.

    Args:
        edited: the arguments; a secret is put where the object in its place is unchanged.
        original: the arguments of the job.
        name: name of its actor.

    Raises:
        PayloadKeyMissing, InvalidJob: as :func:`decrypted_call`.
    """
    if ENCRYPTED not in original:
        return edited
    whole = decrypted_call(name, original)
    return _merged(edited, dict(original), whole)


def _merged(edited: Any, original: Any, whole: Any) -> Any:
    if isinstance(original, dict) and PLACE in original and edited == original:
        return whole
    if isinstance(edited, dict) and isinstance(original, dict) and isinstance(whole, dict):
        return {
            name: _merged(each, original.get(name), whole.get(name))
            for name, each in edited.items()
        }
    if isinstance(edited, list) and isinstance(original, list) and isinstance(whole, list):
        rest = [None] * (len(edited) - len(original))
        pairs = zip(edited, [*original, *rest], [*whole, *rest], strict=False)
        return [_merged(*each) for each in pairs]
    return edited


def _put(value: Any, path: Sequence[str | int], secret: Any) -> Any:
    """Copy a value with a secret in its place; only the containers on the path are copied."""
    if not path:
        return secret
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], secret)
    return copy


def _changed(name: str) -> InvalidJob:
    return InvalidJob(
        f"{name}: expected the encrypted secrets of this job, got the secrets of another job, or a "
        "job that was changed after it was encrypted: send it again, or edit it in the dashboard"
    )


# -- keys ----------------------------------------------------------------------------------

_made: tuple[EncryptionSettings, KeyList] | None = None
_logged_at: dict[str, float] = {}


def payload_keys() -> KeyList:
    """The keys of ``PAYLOAD_KEYS``."""
    global _made
    section, made = get_settings().encryption, _made
    if made is None or made[0] is not section:
        keys = KeyList(lambda: section.secret("keys"), needs="PAYLOAD_KEYS")
        made = _made = (section, keys)
    return made[1]


def _log_missing(key_id: str) -> None:
    """Log once in a while that a key is missing, not for each of its jobs."""
    now = SYSTEM_CLOCK.monotonic()
    if now - _logged_at.get(key_id, -_LOG_INTERVAL) < _LOG_INTERVAL:
        return
    if len(_logged_at) >= _MAX_LOGGED:  # the ids come from outside
        _logged_at.clear()
    _logged_at[key_id] = now
    logger.error(
        "jobs wait for a key: add it to PAYLOAD_KEYS of this worker", extra={"key_id": key_id}
    )


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:  # from orjson: the text names types, never values
        raise InvalidJob(f"expected arguments that JSON can hold: {error}") from None


def _digest(payload: Any) -> str:
    """A digest of a payload, in which the order of keys does not count."""
    try:
        data = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise InvalidJob(f"expected arguments that JSON can hold: {error}") from None
    return hashlib.blake2b(data, digest_size=16).hexdigest()
