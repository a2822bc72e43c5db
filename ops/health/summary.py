"""The JSON of ``/api/v1/workers/health``, in Django and in the dashboard alike."""

from __future__ import annotations

from typing import Any

from ...brokers import NotAvailable, RelayBroker
from ...config import get_settings
from .status_json import list_workers, queue_to_json
from .worker_states import problems, without_worker

#: The answer while the broker is down, beside ``status`` and ``error``.
NOTHING_KNOWN: dict[str, Any] = {
    "broker": None,
    "queues": None,
    "workers": None,
    "problems": None,
}


def worker_health(broker: RelayBroker) -> dict[str, Any]:
    """Return the workers, the queues, and what does not work. Contains no payload.

    ``status`` is ``ok``, or ``degraded`` if there are problems. The ``kind`` of a problem is a
    state of :mod:`.worker_states`.

    Raises:
        BrokerError: the broker does not answer.
    """
    inspector = broker.inspector
    counts = inspector.counts_of(inspector.queues())
    workers = list_workers(broker)
    try:
        consumed = inspector.consumed({each.queue for each in counts})
        stuck = without_worker(counts, consumed)
    except NotAvailable:
        consumed, stuck = None, []
    found = problems(workers or [], stuck)
    return {
        "status": "degraded" if found else "ok",
        "broker": {"kind": get_settings().broker.kind, "weaknesses": broker.weaknesses()},
        "queues": [
            queue_to_json(each)
            | {"has_worker": None if consumed is None else each.queue in consumed}
            for each in counts
        ],
        "workers": workers,
        "problems": found,
    }
