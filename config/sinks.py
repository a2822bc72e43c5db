"""The variables of the API and of ClickHouse."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, SecretStr

from .base import Section
from .certificates import (
    CERT_HELP,
    KEY_HELP,
    PASSWORD_HELP,
    CertificateFile,
    CertificateSection,
    KeyFile,
)
from .expected import Expected
from .secrets import Password, secret
from .types import Seconds, Takes
from .urls import url_check


def _token_check(text: str) -> str:
    """Check that a text can follow ``Authorization: Bearer`` (RFC 6750 allows fewer characters)."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise Expected("be printable ASCII without spaces")
    return text


check_api_url = url_check("http", "https", advice="write https://host", plain=True)
ApiUrl = Annotated[str, AfterValidator(check_api_url)]
Token = Annotated[SecretStr, secret(_token_check)]

check_clickhouse_url = url_check(
    *("clickhouse", "clickhouses", "http", "https", "chdb"),
    advice="write clickhouse://host:9000 (native) or http://host:8123",
    many_hosts=True,
)
ClickhouseUrl = Annotated[SecretStr, secret(check_clickhouse_url)]


class ApiSettings(CertificateSection):
    """API that stores submissions"""

    prefix: ClassVar[str] = "API_"

    url: ApiUrl | None = Field(None, description="Address of the API: http:// or https://.")
    token: Token | None = Field(None, description="Bearer token of the API.")
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="Seconds after which an attempt to connect fails."
    )
    timeout: Seconds = Field(
        timedelta(seconds=30), description="Seconds after which a request fails."
    )
    client_cert_file: CertificateFile | None = Field(
        None, description=CERT_HELP.format("an API that asks for one")
    )
    client_key_file: KeyFile | None = Field(None, description=KEY_HELP)
    client_key_password: Password | None = Field(None, description=PASSWORD_HELP)


class ClickhouseSettings(Section):
    """ClickHouse, which stores events"""

    prefix: ClassVar[str] = "CLICKHOUSE_"

    url: ClickhouseUrl | None = Field(
        None,
        description="clickhouse:// or clickhouses:// (TLS), http:// or https://, or "
        "chdb:///folder inside the process. Several hosts are tried in turn: "
        "clickhouse://a:9000,b:9000/db. Default with BROKER=embedded: chdb in EMBEDDED_DATA_DIR.",
    )
    database: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_][\w-]*\Z"),
        Takes("a database name (letters, digits, '_' and '-')"),
    ] = Field("default", description="Database; `formrelay migrate` creates it.")
    cluster: (
        Annotated[
            str,
            Field(pattern=r"^[\w.-]+\Z"),
            Takes("a cluster's name (letters, digits, '_', '.' and '-')"),
        ]
        | None
    ) = Field(
        None,
        description="Cluster of the server's configuration in which `formrelay migrate` creates "
        "replicated tables.",
    )
    user: str = Field("default", description="User, if the URL names none.")
    password: Password | None = Field(None, description="Password, if the URL has none.")
    timeout: Seconds = Field(
        timedelta(seconds=30), description="Seconds after which an insert fails."
    )
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="Seconds after which an attempt to connect fails."
    )
