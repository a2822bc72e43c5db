"""Writes and reads the audit log: who changed what, with a command or a dashboard.

Commands of ``formrelay`` write entries as ``user@host``. Without a shared store, each process has a
log of its own, which ends with the process.
"""

from __future__ import annotations

import logging
import os
import pwd
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from ..brokers import DeadFilter, RelayBroker, get_broker
from ..core.clock import iso
from ..core.errors import BrokerError, describe
from ..core.printable import shown_id
from ..state import make_audit_log
from ..state.audit import AuditEntry, AuditLog, MemoryAuditLog, Via
from .output import join_names

logger = logging.getLogger("formrelay.audit")

#: Number of entries to read in one call.
_PAGE = 500
#: Words for the fields of a filter, where they differ from the name of the field.
_FIELD_WORDS = {"form_id": "form", "until": "before"}


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who changes something.

    Attributes:
        who, via: as of :class:`.AuditEntry`.
    """

    who: str
    via: Via


def command_operator() -> Operator:
    """Return the user of this process, as ``user@host``."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container often runs as a user without a name
        name = str(uid)
    return Operator(f"{name}@{socket.gethostname()}", "cli")


def open_log(broker: RelayBroker | None = None) -> AuditLog:
    """Return the audit log in the shared store; without a shared store, the log of this process.

    Args:
        broker: None for the broker of this process.
    """
    state = (broker or get_broker()).state
    return _memory_log() if state is None else make_audit_log(state)


def record(
    action: str,
    target: str = "",
    *,
    filter: str = "",
    count: int | None = None,
    outcome: str = "done",
    operator: Operator | None = None,
    broker: RelayBroker | None = None,
) -> None:
    """Add an entry to the audit log. An error of the store is logged, and not raised.

    Args:
        action: what was done, like a command: ``dlq replay``.
        target: the queue, job or endpoint that was changed; never a payload or a secret.
        filter: the selection in words; see :func:`filter_words`.
        count: number of messages or entries that were changed.
        outcome: as of :class:`.AuditEntry`.
        operator: None for the user of this process.
        broker: None for the broker of this process.
    """
    by = operator or command_operator()
    entry = AuditEntry(by.who, by.via, action, target, filter, count, outcome)
    try:
        open_log(broker).add(entry)
    except BrokerError as error:
        about = {"action": action, "target": target, "error_message": describe(error)}
        logger.warning("the audit log was not written", extra=about)


@dataclass(slots=True)
class Audited:
    """The result of an action, which is written when the action ends.

    Attributes:
        count: number of messages or entries that were changed so far.
        outcome: how the action ended, if no error ended it.
    """

    count: int | None = None
    outcome: str = "done"
    _write: Callable[[], None] = lambda: None
    _is_written: bool = False

    def progress(self, count: int) -> None:
        """Set the count after each step of an action of many steps.

        The second step that changes something writes an entry with the outcome ``running``: a
        process that is killed would leave none. Most actions have only one step.
        """
        is_later = self.count is not None and 0 < self.count < count
        self.count = count
        if is_later and not self._is_written:
            self._is_written = True
            outcome, self.outcome = self.outcome, "running"
            self._write()
            self.outcome = outcome


@contextmanager
def audited(
    action: str,
    target: str = "",
    *,
    filter: str = "",
    operator: Operator | None = None,
    broker: RelayBroker | None = None,
) -> Iterator[Audited]:
    """Write an entry when an action ends, also if an error or Ctrl-C ends it.

    Args:
        action, target, filter, operator, broker: as of :func:`record`.

    Yields:
        the result, whose ``count`` the caller updates.
    """

    def write() -> None:
        about: dict[str, Any] = {"count": found.count, "outcome": found.outcome}
        record(action, target, filter=filter, operator=operator, broker=broker, **about)

    found = Audited(_write=write)
    try:
        yield found
    except BaseException as error:
        is_error = isinstance(error, Exception)
        found.outcome = f"failed: {describe(error)}" if is_error else "interrupted"
        raise
    finally:
        write()


def entries(log: AuditLog, since: float | None = None) -> Iterator[AuditEntry]:
    """Yield the entries of a log, the newest first.

    Args:
        since: Unix seconds; older entries are left out. None for all entries.
    """
    cursor = None
    while True:
        page = log.newest(_PAGE, cursor)
        for entry in page.entries:
            if since is not None and entry.at is not None and entry.at.timestamp() < since:
                return
            yield entry
        cursor = page.cursor
        if cursor is None:
            return


def filter_words(which: DeadFilter) -> str:
    """Describe a filter in words: ``queue webhooks, error OSError``, or ``all dead letters``."""
    words = []
    for field in fields(which):
        value = getattr(which, field.name)
        if value is not None:
            shown = iso(value) if isinstance(value, float | int) else shown_id(str(value))
            words.append(f"{_FIELD_WORDS.get(field.name, field.name)} {shown}")
    return ", ".join(words) or "all dead letters"


def id_words(ids: list[str]) -> str:
    """Name the first of some ids: ``a, b and 3 more``."""
    return join_names([shown_id(id) for id in ids])


def domain_words(addresses: Iterable[str]) -> str:
    """Name the domains of e-mail addresses, which are personal data: ``@a.example, @b.example``."""
    domains = dict.fromkeys("@" + address.rpartition("@")[2] for address in addresses)
    return id_words(list(domains))


@cache
def _memory_log() -> AuditLog:
    return MemoryAuditLog()
