"""The places that ``formrelay erase`` cannot reach, and how to erase them."""

from __future__ import annotations

from collections.abc import Iterator

from ...actors.resources import clickhouse_schema
from ...brokers import RelayBroker
from ...config import Settings
from .attempt_rows import condition
from .subject import Subject


def not_reached(broker: RelayBroker, settings: Settings, subject: Subject) -> Iterator[str]:
    """Yield lines about places that have to be erased by other means."""
    if settings.broker.kind == "rabbitmq":
        longest = max((each.total_seconds() for each in settings.webhooks.retry_delays), default=0)
        yield (
            "jobs in flight and scheduled jobs of RabbitMQ: run the command again when they are "
            f"due (retries of webhooks: after {longest / 3600:g} h at the latest)"
        )
    if settings.encryption.keys is not None:
        yield (
            "variables of e-mails that were encrypted with a key that PAYLOAD_KEYS does not have: "
            "add the key and run the command again (formrelay doctor names missing keys)"
        )
    if broker.state is None:
        yield (
            "suppressions, journals and results in the memory of each process, because there is no "
            "STATE_URL: restart the workers"
        )
    if settings.clickhouse.url is not None:
        for table in clickhouse_schema().event_tables:
            if subject.kind == "email":
                yield f"events in ClickHouse (table {table}): by their submission or form"
            else:
                where = condition(subject)
                yield f"events in ClickHouse: ALTER TABLE {table} DELETE WHERE {where}"
    yield "submissions and files that the API (Django) has stored: delete them there"
    yield "e-mails sent, webhooks delivered and rows written to spreadsheets: ask their receivers"
    yield "exported dead letters (`dlq export`) and suppressions: delete or edit the files"
    yield "log files: they have ids of forms and submissions, and no values"
    yield (
        "backups, replicas and append-only files of the broker: old values are in them until they "
        "are rewritten (Redis: BGREWRITEAOF, BGSAVE)"
    )
