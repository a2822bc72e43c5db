"""Makes Sentry's DramatiqIntegration work with a broker, and takes payload values out of events.

Sentry's events of an attempt have the whole message with its arguments, local variables of each
frame, breadcrumbs and the text of exceptions, whatever ``send_default_pii`` says. All of that is
removed in processes that run a worker, whoever called ``sentry_sdk.init``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import dramatiq
from dramatiq.middleware import Middleware

from ..core.disclosure import Detail
from ..core.errors import FormrelayError

_Event: TypeAlias = dict[str, Any]
_BeforeSend: TypeAlias = Callable[[_Event, Any], _Event | None]

#: Fields of an event that may be sent. ``tags``, ``user``, ``extra`` and ``contexts`` are what the
#: program sets itself; log records add to ``extra``.
_ALLOWED = frozenset(
    (
        *("event_id", "type", "timestamp", "start_timestamp", "platform", "level", "logger"),
        *("transaction", "transaction_info", "server_name", "release", "dist", "environment"),
        *("tags", "user", "extra", "contexts", "fingerprint", "modules", "sdk", "measurements"),
        *("exception", "logentry", "message", "threads", "stacktrace", "spans", "debug_meta"),
        *("monitor_slug", "check_in_id", "status", "duration", "monitor_config"),
    )
)
#: Client options that are called last with events, transactions and logs, and with what.
_HOOKS = ("before_send", "before_send_transaction")
_LOG_HOOK = "before_send_log"
_LOG_TEMPLATE, _LOG_PARAMETER = "sentry.message.template", "sentry.message.parameter"
#: Attributes of a log line that sentry-sdk adds; the others are in ``extra`` of the record.
_LOG_ATTRIBUTES = ("sentry.", "logger.", "code.", "process.", "thread.", "server.")
#: In ``extra`` of formrelay's log records: the text of an error, perhaps of the program's own.
_TEXT_FIELDS = ("error_message", "errorMessage", "errorCauses")
#: Spans of these operations are described by a command or a query.
_COMMANDS = ("db", "cache")
#: Maximum number of exceptions in a chain that are read.
_MAX_CHAIN = 50


def join_sentry(broker: dramatiq.Broker, attempt_logger: str) -> None:
    """Give Sentry one event for each failed attempt; does nothing if Sentry is not used.

    The integration adds its middleware to brokers that are made after ``sentry_sdk.init``.
    ``formrelay worker --import MODULE`` makes the broker before, so it is added here.

    Args:
        attempt_logger: logger of the line of an attempt. Sentry ignores it, because the line
            would be a second event for the error of the attempt.
    """
    integration: Any = sys.modules.get("sentry_sdk.integrations.dramatiq")
    if integration is None:
        return
    client = sys.modules["sentry_sdk"].get_client()
    if client.get_integration(integration.DramatiqIntegration) is None:
        return
    if not any(isinstance(each, integration.SentryMiddleware) for each in broker.middleware):
        first = type(broker.middleware[0])
        broker.add_middleware(integration.SentryMiddleware(), before=first)
    sys.modules["sentry_sdk.integrations.logging"].ignore_logger(attempt_logger)


class SentryEvents(Middleware):
    """Takes payload values out of the events of a process that runs a worker.

    Does so in ``before_send``, which Sentry calls last: its processors of a scope run before its
    integrations, and it reads local variables after them. Looks at the client before each attempt,
    because the program may call ``sentry_sdk.init`` at any time.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        clean_events(broker)

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        clean_events(broker)


def clean_events(broker: dramatiq.Broker) -> None:
    """Take payload values out of the events of the current client, if Sentry is used."""
    sentry: Any = sys.modules.get("sentry_sdk")
    if sentry is None:
        return
    client = sentry.get_client()
    # Without init() it has the dict of sentry-sdk's defaults.
    if not client.is_active() or isinstance(client.options.get(_HOOKS[0]), _Cleaner):
        return
    options = client.options
    setting = getattr(getattr(broker, "options", None), "log_exceptions", None)
    has_texts = setting == Detail.MESSAGE
    for hook in reversed(_HOOKS):  # the first hook last: it tells that all are set
        options[hook] = _Cleaner(options.get(hook), has_texts)
    given = options.get(_LOG_HOOK) or options.get("_experiments", {}).get(_LOG_HOOK)
    options[_LOG_HOOK] = _LogCleaner(given)


class _Cleaner:
    """A ``before_send``.

    Args:
        given: the program's; it sees the event as it is.
        has_texts: whether texts of foreign exceptions may be sent.
    """

    def __init__(self, given: _BeforeSend | None, has_texts: bool) -> None:
        self._given = given
        self._has_texts = has_texts

    def __call__(self, event: _Event, hint: Any) -> _Event | None:
        found: _Event | None = event if self._given is None else self._given(event, hint)
        return None if found is None else cleaned(found, hint, has_texts=self._has_texts)


class _LogCleaner:
    """A ``before_send_log``: a log line is its template, without the values in it."""

    def __init__(self, given: _BeforeSend | None) -> None:
        self._given = given

    def __call__(self, log: _Event, hint: Any) -> _Event | None:
        found = log if self._given is None else self._given(log, hint)
        if found is None:
            return None
        attributes = found.get("attributes") or {}
        found["body"] = attributes.get(_LOG_TEMPLATE, found.get("body"))
        found["attributes"] = {
            name: value
            for name, value in attributes.items()
            if name.startswith(_LOG_ATTRIBUTES) and _LOG_PARAMETER not in name
        }
        return found


def cleaned(event: _Event, hint: Any, *, has_texts: bool = False) -> _Event:
    """Return an event without payload values.

    Args:
        hint: Sentry's hint, with the exception of the event.
        has_texts: whether texts of exceptions of other packages may be sent. Texts of formrelay's
            errors always are.
    """
    event = {name: value for name, value in event.items() if name in _ALLOWED}
    _clean_log(event, has_texts)
    message = _part(event, "contexts").get("dramatiq")
    if isinstance(message, dict):
        message.pop("data", None)
    texts = None if has_texts else set(_texts(hint))
    for error in _values(event, "exception"):
        if texts is not None and error.get("value") not in texts:
            error["value"] = ""
        _part(error, "mechanism").pop("data", None)
        _clean_frames(error)
    for thread in _values(event, "threads"):
        _clean_frames(thread)
    _clean_frames(event)
    for span in event.get("spans") or ():
        if isinstance(span, dict):
            span.pop("data", None)
            if str(span.get("op")).startswith(_COMMANDS):
                span.pop("description", None)
    return event


def _clean_log(event: _Event, has_texts: bool) -> None:
    """Remove the values from the event of a log record; formrelay's have none but texts."""
    name = event.get("logger")
    if not isinstance(name, str):
        return
    if name.split(".")[0] == "formrelay":
        for field in () if has_texts else _TEXT_FIELDS:
            _part(event, "extra").pop(field, None)
        return
    if isinstance(entry := event.get("logentry"), dict):
        event["logentry"] = {"message": entry.get("message")}
    id = _part(event, "extra").get("dramatiq_message_id")
    event["extra"] = {} if id is None else {"dramatiq_message_id": id}


def _clean_frames(holder: Any) -> None:
    for name in ("stacktrace", "raw_stacktrace"):
        for frame in _part(holder, name).get("frames") or ():
            if isinstance(frame, dict):
                frame.pop("vars", None)


def _values(event: Any, name: str) -> Iterator[dict[str, Any]]:
    for value in _part(event, name).get("values") or ():
        if isinstance(value, dict):
            yield value


def _part(holder: Any, name: str) -> dict[str, Any]:
    found = holder.get(name) if isinstance(holder, Mapping) else None
    return found if isinstance(found, dict) else {}


def _texts(hint: Any) -> Iterator[str]:
    """The texts of formrelay's errors in the exception of an event, its causes and its groups."""
    info = hint.get("exc_info") if isinstance(hint, Mapping) else None
    left = [info[1] if isinstance(info, tuple) else None]
    seen: set[int] = set()
    while left and len(seen) < _MAX_CHAIN:
        error = left.pop()
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, FormrelayError):
            yield str(error)
        left += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
