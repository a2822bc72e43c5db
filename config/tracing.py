"""The variables of traces and of error reports."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from .base import Section
from .secrets import secret
from .urls import url_check

Dsn = Annotated[
    SecretStr,
    secret(url_check("http", "https", advice="copy the DSN from the settings of your project")),
]


class TracingSettings(Section):
    """Traces: OpenTelemetry (it reads further OTEL_* variables from the environment itself)"""

    endpoint: str = Field(
        "",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="URL of a collector. If the program has no tracer provider, workers then send "
        "spans to it, by OTLP over HTTP.",
    )
    traces_endpoint: str = Field(
        "",
        validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="The same for spans alone, with the path, usually /v1/traces.",
    )
    exporter: str = Field(
        "",
        validation_alias="OTEL_TRACES_EXPORTER",
        description="otlp: workers send spans, by default to http://localhost:4318; none or "
        "another name: they do not. Default: otlp if an endpoint is set.",
    )
    sdk_disabled: str = Field(
        "", validation_alias="OTEL_SDK_DISABLED", description="true: no spans are sent."
    )
    disabled_instrumentations: str = Field(
        "",
        validation_alias="OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
        description="Comma-separated names. With formrelay among them, formrelay makes no spans; "
        "traceparent is passed on all the same.",
    )

    @property
    def makes_spans(self) -> bool:
        """Whether formrelay makes spans if there is a tracer provider."""
        names = {name.strip() for name in self.disabled_instrumentations.split(",")}
        return self.sdk_disabled.strip().lower() != "true" and "formrelay" not in names

    @property
    def wants_provider(self) -> bool:
        """Whether workers make a tracer provider if the program has none."""
        exporter = self.exporter.strip().lower()
        is_asked_for = exporter == "otlp" or (not exporter and bool(self.url))
        return self.makes_spans and is_asked_for

    @property
    def url(self) -> str | None:
        """URL that gets the spans; None for the exporter's default."""
        if self.traces_endpoint:
            return self.traces_endpoint
        return f"{self.endpoint.rstrip('/')}/v1/traces" if self.endpoint else None


class SentrySettings(Section):
    """Error reports"""

    dsn: Dsn | None = Field(
        None,
        validation_alias="SENTRY_DSN",
        description="Project in Sentry that gets failed attempts of workers, without arguments, "
        "local variables and texts of exceptions. Not used if the program calls sentry_sdk.init.",
    )
