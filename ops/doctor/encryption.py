"""What ``formrelay doctor`` finds about the encryption of secrets in payloads."""

from __future__ import annotations

from collections.abc import Iterator

from ...actors.payload_secrets import payload_keys
from ...brokers import RelayBroker, get_broker
from ...config import get_settings
from ..encrypting import PLAIN, Encryption
from ..endpoints import jobs_of_queue
from ..output import join_names
from .finding import Finding


def check_encryption() -> Iterator[Finding]:
    """Check that all workers can decrypt, and find jobs whose key is missing."""
    section, broker = get_settings().encryption, get_broker()
    ids = payload_keys().ids
    found = _sample(broker)
    if found.missing:
        says = f"jobs wait for the missing keys {join_names(sorted(found.missing))}"
        yield Finding("encryption", "bad", f"{says}: add them behind the others in PAYLOAD_KEYS")
    if not ids:
        return
    reports = [] if broker.state is None else broker.worker_reports().read()
    unable = [
        each.name for each in reports if not each.is_silent and ids[0] not in each.payload_keys
    ]
    if unable:
        says = f"these workers cannot decrypt with the first key {ids[0]}: {join_names(unable)}"
        yield Finding("encryption", "bad", f"{says}; give them the same PAYLOAD_KEYS")
    if not section.enabled:
        says = "PAYLOAD_KEYS is set, but PAYLOAD_ENCRYPTION is not: secrets are sent in plain text"
        yield Finding("encryption", "weak", f"{says}; set it for all senders and workers")
        return
    if any(number for (_, key), number in found.jobs.items() if key == PLAIN):
        says = "stored jobs have secrets in plain text"
        yield Finding("encryption", "weak", f"{says}: run formrelay encrypt")
    if not unable:
        says = f"key {ids[0]} encrypts the secrets of payloads"
        more = f", {len(ids) - 1} more can decrypt" if len(ids) > 1 else ""
        yield Finding("encryption", "ok", f"{says}{more}")


def _sample(broker: RelayBroker) -> Encryption:
    """Look at some jobs of each queue: there may be millions."""
    found = Encryption(broker, dry_run=True)
    for queue in broker.inspector.queues():
        for entry in jobs_of_queue(broker.inspector, queue):
            found.edit(entry, queue)
    return found
