"""Whose certificates are trusted."""

from __future__ import annotations

import ssl


def system_ca_file() -> str | None:
    """The system's store, where companies add their own; else the one requests brings."""
    system = ssl.get_default_verify_paths().cafile
    if system:
        return system
    import certifi

    return certifi.where()
