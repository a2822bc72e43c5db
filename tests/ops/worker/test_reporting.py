"""A worker starts with SENTRY_DSN and OTEL_* set, whatever is installed or set up already.

That it sends events and spans is tested with the examples of packages.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import opentelemetry.trace
import pytest
import sentry_sdk
from opentelemetry.sdk.trace import TracerProvider

from formrelay.config import TracingSettings
from formrelay.ops.worker.sentry import start_sentry
from formrelay.ops.worker.trace_export import set_provider

# sentry-sdk asks git for the release.
pytestmark = pytest.mark.process

DSN = "http://secret-key@127.0.0.1:1/1"


@pytest.fixture
def no_client() -> Iterator[None]:
    yield
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def test_without_sentry_sdk_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    assert not start_sentry(DSN)
    assert "pip install 'formrelay[sentry]'" in caplog.text


@pytest.mark.usefixtures("no_client")
def test_sentry_is_started_once_and_not_if_the_program_has_started_it() -> None:
    sentry_sdk.init(dsn="http://theirs@127.0.0.1:1/2", auto_enabling_integrations=False)
    assert not start_sentry(DSN)
    assert sentry_sdk.get_client().dsn == "http://theirs@127.0.0.1:1/2"


@pytest.mark.usefixtures("no_client")
def test_a_malformed_dsn_is_an_error_that_does_not_quote_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not start_sentry("http://secret-key@127.0.0.1:1/no-project")
    assert "SENTRY_DSN is no DSN" in caplog.text
    assert "secret-key" not in caplog.text


def test_without_the_sdk_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert not set_provider(None)
    assert "pip install 'formrelay[otel]'" in caplog.text


def test_the_providers_of_programs_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    theirs = TracerProvider()
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", theirs)
    assert not set_provider("http://127.0.0.1:1/v1/traces")
    assert opentelemetry.trace.get_tracer_provider() is theirs
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "wants", "url"),
    [
        ({}, False, None),
        ({"endpoint": "http://c:4318/"}, True, "http://c:4318/v1/traces"),
        ({"endpoint": "http://c", "traces_endpoint": "http://t/x"}, True, "http://t/x"),
        ({"exporter": "otlp"}, True, None),
        ({"endpoint": "http://c", "exporter": "none"}, False, "http://c/v1/traces"),
        ({"endpoint": "http://c", "sdk_disabled": "True"}, False, "http://c/v1/traces"),
        ({"exporter": "otlp", "disabled_instrumentations": "redis, formrelay"}, False, None),
    ],
)
def test_the_variables_say_whether_a_worker_makes_a_provider(
    given: dict[str, str], wants: bool, url: str | None
) -> None:
    settings = TracingSettings(**given)
    assert (settings.wants_provider, settings.url) == (wants, url)
