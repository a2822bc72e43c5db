"""Findings: problems that exist now, and the severity and remedy of each rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ...core.printable import printable
from ...state.digests import digest

Severity: TypeAlias = Literal["critical", "warning"]

#: Maximum length of a label and of a summary.
_MAX_LABEL, _MAX_SUMMARY = 120, 400


class Rule(NamedTuple):
    """The severity and remedy of a rule.

    Attributes:
        todo: what to do, in one line.
    """

    severity: Severity
    todo: str


ABOUT: dict[str, Rule] = {
    "broker_unreachable": Rule("critical", "check that the broker runs and can be reached"),
    "store_unreachable": Rule("critical", "check that the Redis of STATE_URL runs"),
    "worker_crashed": Rule("critical", "look at its log, and for the OOM killer in dmesg"),
    "worker_silent": Rule("critical", "look at its log; run formrelay workers"),
    "worker_hangs": Rule("critical", "restart the worker; py-spy dump --pid PID tells where"),
    "worker_without_broker": Rule("critical", "check the network of the worker"),
    "queue_without_worker": Rule("critical", "start a worker of the queue: formrelay worker QUEUE"),
    "queue_too_long": Rule("warning", "run formrelay queues; start more workers"),
    "oldest_waiting": Rule("warning", "run formrelay queues; start more workers"),
    "scheduler_late": Rule("critical", "run formrelay workers; restart the workers of the queue"),
    "error_rate": Rule(
        "warning", "run formrelay dlq list --queue QUEUE; the dashboard groups errors"
    ),
    "dead_letters_growing": Rule("warning", "run formrelay dlq list --queue QUEUE"),
    "sink_unreachable": Rule("critical", "check the system; its jobs wait until it is back"),
    "sink_paused": Rule("warning", "run formrelay doctor; jobs wait until the sink works again"),
    "breaker_open": Rule("warning", "run formrelay webhooks endpoints; tell the receiver"),
    "endpoint_disabled": Rule("warning", "run formrelay webhooks endpoints, then enable ID"),
    "connection_paused": Rule("warning", "mend it: formrelay sheets connections resume ID"),
    "clock_skew": Rule("warning", "synchronise the clocks (chrony, systemd-timesyncd)"),
    "receiver_failing": Rule("warning", "run formrelay monitor --test"),
    "look_failed": Rule("warning", "run formrelay monitor --once; look at the log of the monitor"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that exists now.

    Attributes:
        labels: name and value; with the rule, they identify the problem.
        summary: one line with the numbers, without payload values and secrets.
    """

    rule: str
    labels: tuple[tuple[str, str], ...]
    summary: str

    @property
    def key(self) -> str:
        """Identifies the problem in all processes and versions."""
        return digest(self.rule, *(part for label in self.labels for part in label))


def finding(rule: str, summary: str, **labels: str) -> Finding:
    """Make a finding. Texts are escaped and cut: names of queues come from outside."""
    clean = tuple((name, printable(value)[:_MAX_LABEL]) for name, value in labels.items())
    return Finding(rule, clean, printable(summary)[:_MAX_SUMMARY])
