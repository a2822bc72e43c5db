"""The variables of encryption: keys, and the secrets of payloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, SecretStr

from .base import Section
from .expected import Expected
from .secrets import secret


def check_fernet_keys(text: str) -> str:
    """Check that a text is a list of Fernet keys: 32 bytes each, in URL-safe base64."""
    keys = [key.strip() for key in text.split(",")]
    for number, key in enumerate(keys, 1):
        if not _FERNET_KEY.fullmatch(key):
            which = f"whose key {number} of {len(keys)}" if len(keys) > 1 else "which"
            raise Expected(
                "be keys of 32 bytes in URL-safe base64 (44 characters), separated by commas",
                got=f"a value, not shown, {which} is not such a key ({len(key)} characters)",
                advice="make a key with `openssl rand -base64 32 | tr +/ -_`",
            )
    return ",".join(keys)


#: The last of 43 characters has two bits that must be 0.
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=")

FernetKeys = Annotated[SecretStr, secret(check_fernet_keys)]


class EncryptionSettings(Section):
    """Encryption of secrets in payloads"""

    keys: FernetKeys | None = Field(
        None,
        validation_alias="PAYLOAD_KEYS",
        description="Keys for the secrets of payloads, comma-separated: the first encrypts, all "
        "decrypt. Make one with `openssl rand -base64 32 | tr +/ -_`.",
    )
    enabled: bool = Field(
        False,
        validation_alias="PAYLOAD_ENCRYPTION",
        description="Encrypt them with PAYLOAD_KEYS in each job that is sent. Set it when all "
        "workers have the keys.",
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.enabled and self.keys is None:
            yield (
                "PAYLOAD_ENCRYPTION",
                "expected PAYLOAD_KEYS or PAYLOAD_KEYS_FILE to be set, because PAYLOAD_ENCRYPTION "
                "is on, got neither: make a key with `openssl rand -base64 32 | tr +/ -_`",
            )
