"""Digests that stand for keys in the shared store, where keys may be personal data."""

from __future__ import annotations

import hashlib


def digest(*parts: str) -> str:
    """Digest texts to 32 hexadecimal digits; ("a", "bc") and ("ab", "c") differ."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:%b" % (len(data), data))
    return hashed.hexdigest()
