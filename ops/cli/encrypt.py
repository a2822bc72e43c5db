"""``formrelay encrypt``: encrypt the secrets of stored jobs with the first key."""

from __future__ import annotations

import typer

from ...actors import declare_actors
from ...actors.payload_secrets import payload_keys
from ...brokers import get_broker
from ...config import get_settings
from ...core.errors import ConfigError
from ..audit import audited
from ..encrypting import Encryption
from ..output import print_json, print_table, say, say_error
from ..worker.boot import NOT_FINE
from .dlq_changes import stoppable
from .options import DryRunOption, JsonOption, note_hidden_queues, open_inspector


def encrypt(dry_run: DryRunOption = False, json: JsonOption = False) -> None:
    """Encrypt the secrets of stored jobs with the first key of PAYLOAD_KEYS.

    Jobs of an older key are encrypted again; with PAYLOAD_ENCRYPTION, jobs in
    plain text too. Safe beside running workers. Exits with 1 while jobs of
    another key may be left: run it again before you remove the key.

    Example: formrelay encrypt --dry-run
    """
    if not payload_keys().ids:
        raise ConfigError(
            "expected PAYLOAD_KEYS to have keys, got none: set it or PAYLOAD_KEYS_FILE"
        )
    inspector = open_inspector()
    declare_actors()
    note_hidden_queues(inspector)
    found = _run(Encryption(get_broker(), dry_run=dry_run))
    if not dry_run and found.changed and not found.is_stopped:
        before, found = found.changed, _run(Encryption(get_broker(), dry_run=True))
        found.changed = before
    left = list(_left(found))
    if json:
        _print_json(found, left)
    else:
        rows = [(place, key, number) for (place, key), number in sorted(found.jobs.items())]
        rows = [row for row in rows if row[2]]
        print_table("Keys of stored jobs", ["place", "key", "jobs"], rows, empty="no secrets")
        say(f"{'would be encrypted' if dry_run else 'encrypted'}: {found.changed:,}")
        for line in left:
            say_error(line)
    if left:
        raise typer.Exit(NOT_FINE)


def _run(encryption: Encryption) -> Encryption:
    with stoppable() as should_stop:
        encryption.should_stop = should_stop
        if encryption.dry_run:
            encryption.run()
        else:
            with audited("encrypt", f"key {payload_keys().ids[0]}") as entry:
                encryption.run()
                entry.count = encryption.changed
    return encryption


def _left(found: Encryption) -> list[str]:
    """Say why an old key must stay; empty if it may go."""
    lines = [f"missing key: {id}" for id in sorted(found.missing)]
    if found.is_stopped:
        lines.append("stopped: run the same command again to continue")
    if old := found.old():
        lines.append(f"jobs of another key, or of none: {old:,}")
    for place, number in sorted(found.unseen.items()):
        many = f": {number:,}" if number else ""
        lines.append(
            f"not looked at ({get_settings().broker.kind} cannot list them), {place}{many}"
        )
    return lines


def _print_json(found: Encryption, left: list[str]) -> None:
    print_json(
        {
            "first_key": payload_keys().ids[0],
            "jobs": [
                {"place": place, "key": key, "jobs": number}
                for (place, key), number in sorted(found.jobs.items())
                if number
            ],
            "encrypted": found.changed,
            "left": left,
        }
    )
