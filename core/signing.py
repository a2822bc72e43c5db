"""Signatures of webhooks, as the Standard Webhooks specification has them; and Stripe's.

The signed content is ``id.timestamp.body``, the exact bytes sent, under
HMAC-SHA256; the header holds one ``v1,<base64>`` for each secret, separated
by spaces, so that a key can be rotated.
Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.

Stripe's header, which some receivers expect, is ``t=<timestamp>,v1=<hex>`` over
``timestamp.body``. Source: https://docs.stripe.com/webhooks#verify-manually.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import timedelta

from .errors import FormrelayError, InvalidJob

#: How far a timestamp may be from the verifier's clock, either way.
TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"


class SignatureInvalid(FormrelayError):
    """The signature does not fit."""


def sign(secrets: Sequence[str], *, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed webhook.

    Args:
        secrets: one, or several while a key is rotated; ``whsec_`` + base64, or
            any other text, which is used as its UTF-8 bytes.
        webhook_id: the same on every attempt; no ``.`` in it.
        timestamp: unix seconds of this attempt.
        body: the exact bytes that are sent.

    Raises:
        InvalidJob: no secret, an empty one, or a ``.`` in the id.
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
    """Whether :func:`sign` can sign with these.

    Raises:
        InvalidJob: there is none, or one is empty, blank or no base64 behind ``whsec_``.
    """
    if not secrets:
        raise InvalidJob("expected at least one signing secret, got none")
    for secret in secrets:
        _key(secret)


def sign_like_stripe(secrets: Sequence[str], *, timestamp: int, body: bytes) -> dict[str, str]:
    """The ``stripe-signature`` header, one ``v1`` for each secret.

    Args:
        secrets: used as the text that they are, ``whsec_`` included, as Stripe does.
        timestamp, body: as for :func:`sign`.

    Raises:
        InvalidJob: no secret, or an empty one.
    """
    if not secrets:
        raise InvalidJob("expected at least one signing secret, got none")
    content = b"%d." % timestamp + body
    digests = (hmac.new(_text(one), content, hashlib.sha256).hexdigest() for one in secrets)
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
    """Check a received webhook: every signature in the header, in constant time.

    Args:
        secret: the endpoint's secret, as given to :func:`sign`.
        headers: the request's headers; names in any case.
        body: the raw bytes received, before any parsing.
        now: unix time in seconds.

    Raises:
        SignatureInvalid: a header is missing, the timestamp is too far away, or
            no signature fits.
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
    if "." in webhook_id:  # ``id.timestamp.body`` could then be cut in another place
        raise SignatureInvalid("expected a webhook-id without '.', got one with it")
    timestamp = int(stamp)
    if abs(now - timestamp) > tolerance.total_seconds():
        raise SignatureInvalid("webhook-timestamp is too far from this machine's clock")
    try:
        expected = _signature(_key(secret), webhook_id, timestamp, body).encode()
        candidates = [one.encode() for one in offered.split(" ")]
    except UnicodeEncodeError:  # a server that decodes headers with surrogates for odd bytes
        raise SignatureInvalid("expected headers that are text, got other bytes") from None
    # No early exit: how many signatures were tried must not show in the time taken.
    fits = [hmac.compare_digest(expected, one) for one in candidates]
    if not any(fits):
        raise SignatureInvalid("no signature in webhook-signature fits the body")


def _signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    content = f"{webhook_id}.{timestamp}.".encode() + body
    # Not hmac.digest(), which lets go of the interpreter's lock even for a short content: of
    # several busy threads this one would then wait for it at each signature.
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        key = _text(secret)
    else:
        encoded = secret.removeprefix(_PREFIX)
        try:
            # Some issuers leave the padding out.
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except ValueError:  # binascii.Error is one; a character outside ASCII is another
            raise InvalidJob("expected base64 after 'whsec_' in a signing secret") from None
    if not key:
        raise InvalidJob("expected a signing secret, got an empty one")
    return key


def _text(secret: str) -> bytes:
    if not secret.strip():
        raise InvalidJob("expected a signing secret, got an empty one")
    try:
        return secret.encode()
    except UnicodeEncodeError:
        raise InvalidJob("expected a signing secret that UTF-8 can hold") from None
