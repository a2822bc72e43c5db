"""Signatures of webhooks by the Standard Webhooks specification, and by Stripe's scheme.

The signature is an HMAC-SHA256 of ``id.timestamp.body``, with the exact bytes sent. The header
holds one ``v1,<base64>`` for each secret, separated by spaces, so that a key can be rotated.
Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.

Stripe's header, which some receivers expect, is ``t=<timestamp>,v1=<hex>`` over
``timestamp.body``. Source: https://docs.stripe.com/webhooks#verify-manually.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

from .errors import FormrelayError, InvalidJob

#: Maximum difference between a timestamp and the verifier's clock.
TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"
#: A text that begins in this way is a secret of another kind or with a misspelled prefix. As a
#: plain text it would give signatures that its owner cannot verify.
_LOOKS_ENCODED = re.compile(r"v1a?,|wh(?:sec|sk|pk)[_-]", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SignatureInvalid(FormrelayError):
    """The signature does not match."""


def sign(secrets: Sequence[str], *, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Make the three headers of a signed webhook.

    Args:
        secrets: one secret, or several while a key is rotated: ``whsec_`` and base64, also after
            ``v1,``; or any other text, whose UTF-8 bytes are the key.
        webhook_id: the same at every attempt; without ``.``.
        timestamp: unix seconds of this attempt.
        body: the exact bytes that are sent.

    Raises:
        InvalidJob: there is no secret, no receiver could use a secret (see :func:`check_secrets`),
            or the id contains ``.``.
    """
    if not secrets:
        raise InvalidJob("expected at least one signing secret, got none")
    if "." in webhook_id or not webhook_id:
        raise InvalidJob("expected a webhook id without '.', got one with it (or an empty one)")
    signatures = (_signature(_key(secret), webhook_id, timestamp, body) for secret in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def check_secrets(secrets: Sequence[str]) -> None:
    """Check that :func:`sign` can sign with these secrets.

    Raises:
        InvalidJob: there is no secret, or a secret is blank, has leading or trailing
            spaces or control characters, is not base64 after ``whsec_``, or has the prefix of
            another kind of key.
    """
    if not secrets:
        raise InvalidJob("expected at least one signing secret, got none")
    for secret in secrets:
        _key(secret)


def sign_like_stripe(secrets: Sequence[str], *, timestamp: int, body: bytes) -> dict[str, str]:
    """Make the ``stripe-signature`` header, with one ``v1`` for each secret.

    Args:
        secrets: used as text, ``whsec_`` included, as Stripe does.
        timestamp, body: as for :func:`sign`.

    Raises:
        InvalidJob: there is no secret, or a secret is empty.
    """
    if not secrets:
        raise InvalidJob("expected at least one signing secret, got none")
    content = b"%d." % timestamp + body
    digests = (hmac.new(_text(secret), content, hashlib.sha256).hexdigest() for secret in secrets)
    parts = [f"t={timestamp}", *(f"v1={digest}" for digest in digests)]
    return {"stripe-signature": ",".join(parts)}


def verify(
    secret: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance: timedelta = TOLERANCE,
) -> None:
    """Check the signatures of a received webhook, in constant time.

    Args:
        secret: the endpoint's secret, as given to :func:`sign`.
        headers: the request's headers; names in any case.
        body: the raw bytes received, not parsed.
        now: unix time in seconds.

    Raises:
        SignatureInvalid: a header is missing, the timestamp differs from ``now`` by more than
            ``tolerance``, or no signature matches.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id = lowered["webhook-id"]
        stamp = lowered["webhook-timestamp"]
        offered = lowered["webhook-signature"]
    except KeyError as missing:
        raise SignatureInvalid(f"expected the header {missing}, got none") from None
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise SignatureInvalid("expected unix seconds in webhook-timestamp, got something else")
    if "." in webhook_id:  # ``id.timestamp.body`` could then be split in another place
        raise SignatureInvalid("expected a webhook-id without '.', got one with it")
    timestamp = int(stamp)
    if abs(now - timestamp) > tolerance.total_seconds():
        raise SignatureInvalid("webhook-timestamp is too far from this machine's clock")
    try:
        expected = _signature(_key(secret), webhook_id, timestamp, body).encode()
        candidates = [text.encode() for text in offered.split(" ")]
    except UnicodeEncodeError:  # some servers decode invalid bytes to surrogates
        raise SignatureInvalid("expected headers that are text, got other bytes") from None
    # No early exit: the duration must not tell how many signatures were compared.
    matches = [hmac.compare_digest(expected, candidate) for candidate in candidates]
    if not any(matches):
        raise SignatureInvalid("no signature in webhook-signature matches the body")


def _signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    content = f"{webhook_id}.{timestamp}.".encode() + body
    # Not hmac.digest(), which releases the GIL even for short content: among several busy threads,
    # each signature would then wait for the GIL.
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    # Supabase and others store a secret together with the version of the signature.
    encoded = secret.removeprefix("v1,")
    if not encoded.startswith(_PREFIX):
        if unusable := _LOOKS_ENCODED.match(secret):
            raise InvalidJob(
                f"expected a signing secret that begins with '{_PREFIX}', or any text, got "
                f"'{unusable[0]}…', which no receiver could verify{_hint(unusable[0].lower())}"
            )
        return _text(secret)
    encoded = encoded.removeprefix(_PREFIX)
    try:
        # Some issuers omit the padding.
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:  # binascii.Error, or a character outside ASCII
        raise InvalidJob("expected base64 after 'whsec_' in a signing secret") from None
    if not key:
        raise InvalidJob("expected a signing secret, got an empty one")
    return key


def _hint(prefix: str) -> str:
    if prefix.startswith(("whsk", "whpk", "v1a")):
        return ": it is a key for asymmetric signatures (v1a), which formrelay does not make"
    return ": check its prefix"


def _text(secret: str) -> bytes:
    if not secret.strip():
        raise InvalidJob("expected a signing secret, got an empty one")
    if secret != secret.strip() or _CONTROL.search(secret):
        # Often the line end of a file, which the receiver does not have in its secret.
        raise InvalidJob(
            "expected a signing secret without leading or trailing spaces, line ends and control "
            "characters, got one with them: remove them"
        )
    try:
        return secret.encode()
    except UnicodeEncodeError:
        raise InvalidJob("expected a signing secret without lone surrogates, got one") from None
