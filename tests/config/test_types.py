"""The types of the variables: reading, writing and describing values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import Field

from formrelay.config import Settings
from formrelay.config.report import rows
from formrelay.config.settings import read_settings, variables
from formrelay.config.types import (
    Count,
    Decimal,
    Hours,
    KeepDays,
    QueueName,
    Whole,
    expectation,
)

REDIS = {"REDIS_URL": "redis://host:6379/0"}
WAITS = st.timedeltas(timedelta(0), timedelta(hours=24))


def written(**environ: str) -> dict[str, str]:
    """Variable -> its value as the settings table shows it."""
    return {row.name: row.value for row in rows(read_settings(REDIS | environ, env_file=None))}


#: Reading the settings takes 50 ms of CPU.
few = settings(max_examples=30)


@few
@given(st.lists(WAITS, min_size=1))
def test_written_delays_are_read_back_unchanged(delays: list[timedelta]) -> None:
    texts = ",".join(f"{delay.total_seconds():f}" for delay in delays)
    read = Settings.load(REDIS | {"EMAIL_RETRY_DELAYS": texts}, env_file=None)
    assert read.emails.retry_delays == tuple(delays)
    again = REDIS | {"EMAIL_RETRY_DELAYS": written(EMAIL_RETRY_DELAYS=texts)["EMAIL_RETRY_DELAYS"]}
    assert Settings.load(again, env_file=None) == read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EVENT_RETRY_BASE_SECONDS", "0.000001"),
        ("EVENT_BATCH_WAIT_MS", "0"),
        ("EVENT_BATCH_WAIT_MS", "0.001"),
        ("EVENT_KEEP_DAYS", "1.5"),
        ("EVENT_RETRY_JITTER", "0.25"),
        ("EVENT_RETRY_JITTER", "0.000001"),
        ("IDEMPOTENCY_KEEP_HOURS", "36"),
        ("LOG_LEVEL", "DEBUG"),
        ("RABBITMQ_ADOPT_QUEUES", "webhook_tasks=dlx.webhook,mails"),
        ("WEBHOOK_ALLOW_HTTP", "true"),
        ("WEBHOOK_ALLOWED_PRIVATE_CIDRS", "10.0.0.0/8,fd00::/8"),
        ("WEBHOOK_DELIVERY_LOG", "false"),
        ("WEBHOOK_PERMANENT_STATUSES", "400,422"),
    ],
)
def test_values_are_shown_as_they_were_given(name: str, text: str) -> None:
    assert written(**{name: text})[name] == text


@few
@given(
    st.dictionaries(
        st.from_regex(r"[a-z.]{1,9}\*?", fullmatch=True) | st.just("*"),
        st.from_regex(r"[A-Za-z_][A-Za-z0-9]{0,9}", fullmatch=True),
        min_size=1,
    )
)
def test_written_mappings_are_read_back_unchanged(tables: dict[str, str]) -> None:
    text = ",".join("=".join(pair) for pair in tables.items())
    read = Settings.load(REDIS | {"EVENT_TABLES": text}, env_file=None)
    assert read.events.tables == tuple(tables.items())
    assert written(EVENT_TABLES=text)["EVENT_TABLES"] == text


@given(st.sampled_from(list(variables())), st.text(min_size=1) | st.from_regex(r"-?[0-9.e,/:]+"))
def test_any_text_is_accepted_or_refused_in_one_line(name: str, text: str) -> None:
    assume(name != "BROKER" or text.strip())  # an empty variable counts as not set
    error = read_settings({"BROKER": "embedded", name: text}, env_file=None).error
    if error is not None:
        named = [f"expected {name} to ", f"because {name} is "]  # a variable that needs another
        assert any(words in str(error) for words in named)
        assert all(line.isprintable() for line in str(error).split("\n"))


@pytest.mark.parametrize(
    ("kind", "field", "said"),
    [
        (Whole, Field(ge=1, le=9), "a whole number from 1 to 9"),
        (Count | None, Field(), "a whole number of at least 1"),
        (Decimal, Field(gt=0), "a number above 0"),
        (Decimal, Field(gt=0, le=5), "a number above 0 and of at most 5"),
        (int, Field(), "a whole number"),
        (Hours, Field(), "a number of hours above 0"),
        (KeepDays | None, Field(), "a number of days from 1 to 15000"),
        (Literal["a", "b", "c"], Field(), "'a', 'b' or 'c'"),
        (bool | None, Field(), "'true' or 'false'"),
        (str, Field(pattern="^[a-z]+$"), "text that matches ^[a-z]+$"),
        (QueueName, Field(), "a queue name (letters, digits, '.', '_' and '-'; the first a letter"),
        (Path, Field(), "valid"),
    ],
)
def test_errors_of_a_field_say_what_its_variable_accepts(kind: Any, field: Any, said: str) -> None:
    assert expectation(Annotated[kind, field, *field.metadata]).startswith(said)
