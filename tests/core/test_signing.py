"""Signatures of Standard Webhooks and Stripe, checked against their official libraries."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
import stripe
import svix.webhooks
from hypothesis import assume, example, given
from hypothesis import strategies as st

from formrelay.core.errors import InvalidJob
from formrelay.core.signing import (
    TOLERANCE,
    SignatureInvalid,
    check_secrets,
    sign,
    sign_like_stripe,
    verify,
)

# The test vector published with the libraries of the specification.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

KEYS = st.binary(min_size=1, max_size=64)
BODIES = st.binary(max_size=200)
# Printable ASCII characters except the dot.
IDS = st.from_regex(r"[!-\-/-~]{1,40}", fullmatch=True)
TEXT_BODIES = st.text(max_size=200)


def whsec(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def signed(*secrets: str, body: bytes = BODY, timestamp: int = TIMESTAMP) -> dict[str, str]:
    return sign(secrets or (SECRET,), webhook_id=ID, timestamp=timestamp, body=body)


def fits(headers: dict[str, str], *, secret: str = SECRET, body: bytes = BODY, now: float) -> bool:
    try:
        verify(secret, headers=headers, body=body, now=now)
    except SignatureInvalid:
        return False
    return True


def test_the_published_vector_is_reproduced() -> None:
    assert signed() == {
        "webhook-id": ID,
        "webhook-timestamp": str(TIMESTAMP),
        "webhook-signature": SIGNATURE,
    }


@given(KEYS, IDS, TEXT_BODIES)
def test_their_library_verifies_our_signature(key: bytes, webhook_id: str, text: str) -> None:
    body, now = text.encode(), int(time.time())
    headers = sign([whsec(key)], webhook_id=webhook_id, timestamp=now, body=body)
    standardwebhooks.Webhook(whsec(key)).verify(body, headers, json_parse=False)


@given(KEYS, IDS, TEXT_BODIES, st.integers(0, 2**32))
def test_we_verify_a_signature_of_their_library(
    key: bytes, webhook_id: str, text: str, timestamp: int
) -> None:
    theirs = standardwebhooks.Webhook(whsec(key)).sign(
        webhook_id, datetime.fromtimestamp(timestamp, UTC), text
    )
    headers = {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": str(timestamp),
        "Webhook-Signature": theirs,
    }
    verify(whsec(key), headers=headers, body=text.encode(), now=timestamp)


@given(KEYS, IDS, TEXT_BODIES)
def test_the_svix_library_verifies_our_signature(key: bytes, webhook_id: str, text: str) -> None:
    body, now = text.encode(), int(time.time())
    headers = sign([whsec(key)], webhook_id=webhook_id, timestamp=now, body=body)
    theirs = {name.replace("webhook-", "svix-"): value for name, value in headers.items()}
    svix.webhooks.Webhook(whsec(key)).verify(body, headers)
    svix.webhooks.Webhook(whsec(key)).verify(body, theirs)


def is_usable(secret: str) -> bool:
    try:
        check_secrets([secret])
    except InvalidJob:
        return False
    return True


SECRETS = st.text(min_size=1, max_size=40).filter(is_usable)


@given(st.lists(SECRETS, min_size=1, max_size=3), TEXT_BODIES)
@example(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "{}")  # Stripe uses the secret as plain text
def test_the_stripe_library_verifies_our_stripe_signature(secrets: list[str], text: str) -> None:
    body, now = text.encode(), int(time.time())
    header = sign_like_stripe(secrets, timestamp=now, body=body)["stripe-signature"]
    for secret in secrets:
        assert stripe.WebhookSignature.verify_header(text, header, secret, tolerance=300)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(text + " ", header, secrets[0], tolerance=300)


@pytest.mark.parametrize("secrets", [[], [""], [" \r\n"], ["whsec_x", ""]])
def test_without_a_secret_there_is_no_stripe_signature(secrets: list[str]) -> None:
    with pytest.raises(InvalidJob, match="secret"):
        sign_like_stripe(secrets, timestamp=1, body=b"")


@given(st.lists(KEYS, min_size=1, max_size=4), BODIES)
def test_with_several_secrets_each_verifies_the_signatures(keys: list[bytes], body: bytes) -> None:
    secrets = [whsec(key) for key in keys]
    headers = signed(*secrets, body=body)
    assert len(headers["webhook-signature"].split(" ")) == len(secrets)
    for secret in secrets:
        assert fits(headers, secret=secret, body=body, now=TIMESTAMP)


@given(KEYS, KEYS)
def test_another_secret_does_not_verify(key: bytes, other: bytes) -> None:
    assume(key.ljust(64, b"\0") != other.ljust(64, b"\0"))  # HMAC pads short keys with zeros
    assert not fits(signed(whsec(key)), secret=whsec(other), now=TIMESTAMP)


@pytest.mark.parametrize(
    ("late", "good"),
    [(0, True), (300, True), (-300, True), (300.5, False), (-300.5, False), (10**9, False)],
)
def test_the_timestamp_may_differ_by_five_minutes(late: float, good: bool) -> None:
    assert timedelta(minutes=5) == TOLERANCE
    assert fits(signed(), now=TIMESTAMP + late) is good


def test_the_tolerance_can_be_set() -> None:
    short = timedelta(seconds=1)
    verify(SECRET, headers=signed(), body=BODY, now=TIMESTAMP + 1, tolerance=short)
    with pytest.raises(SignatureInvalid, match="too far"):
        verify(SECRET, headers=signed(), body=BODY, now=TIMESTAMP + 2, tolerance=short)


def test_every_changed_byte_of_the_body_is_detected() -> None:
    headers = signed()
    for index in range(len(BODY)):
        changed = bytearray(BODY)
        changed[index] ^= 1
        assert not fits(headers, body=bytes(changed), now=TIMESTAMP)
    for changed in (b"", BODY + b" ", b" " + BODY, BODY[:-1]):
        assert not fits(headers, body=changed, now=TIMESTAMP)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_every_changed_character_of_a_header_is_detected(name: str) -> None:
    value = signed()[name]
    for index in range(len(value)):
        for mask in (1, 2, 32):
            changed = value[:index] + chr(ord(value[index]) ^ mask) + value[index + 1 :]
            headers = {**signed(), name: changed}
            assert not fits(headers, now=TIMESTAMP), (index, mask)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = {key: value for key, value in signed().items() if key != name}
    with pytest.raises(SignatureInvalid, match=name):
        verify(SECRET, headers=headers, body=BODY, now=TIMESTAMP)


def test_the_boundary_between_id_timestamp_and_body_cannot_be_moved() -> None:
    # In "id.1614265330.1614265331.5" either number could be the timestamp.
    headers = sign([SECRET], webhook_id="id", timestamp=TIMESTAMP, body=b"1614265331.5")
    moved = {**headers, "webhook-id": f"id.{TIMESTAMP}", "webhook-timestamp": "1614265331"}
    assert not fits(moved, body=b"5", now=TIMESTAMP)


ODD = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "Nd", "Cc"])),
    st.integers().map(str),
    st.sampled_from(
        [
            "",
            " ",
            "9" * 5000,
            "-1",
            "1e9",
            "nan",
            "inf",
            "٣٤٥",
            "²",
            "\udcff",
            "v1,",
            "v1",
            ",",
            "v1a,x",
            f"v2,{SIGNATURE[3:]}",
            SIGNATURE * 1000,
        ]
    ),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("webhook-timestamp", "9" * digits) for digits in (13, 400, 5000)),
        *(("webhook-timestamp", odd) for odd in ("", " 1614265330", "-1", "1e9", "nan", "١٢", "²")),
        *(("webhook-signature", odd) for odd in ("", "v1", "v1,", ",", " ", "é", "\udcff")),
        *(("webhook-id", odd) for odd in ("", "é", "\udcff", "a.b")),
    ],
)
def test_each_malformed_header_is_an_invalid_signature(name: str, value: str) -> None:
    with pytest.raises(SignatureInvalid):
        verify(SECRET, headers={**signed(), name: value}, body=BODY, now=TIMESTAMP)


@given(ODD, ODD, ODD, st.floats())
def test_malformed_headers_raise_only_signature_invalid(
    webhook_id: str, stamp: str, signature: str, now: float
) -> None:
    for headers in (
        {"webhook-id": webhook_id, "webhook-timestamp": stamp, "webhook-signature": signature},
        {**signed(), "webhook-id": webhook_id + "?"},
        {**signed(), "webhook-timestamp": stamp + "?"},
        {**signed(), "webhook-signature": signature + "?"},
    ):
        assert not fits(headers, now=now)


def test_one_matching_signature_among_several_is_enough() -> None:
    headers = {**signed(), "webhook-signature": f"v2,x v1,AAAA {SIGNATURE} v1,é"}
    assert fits(headers, now=TIMESTAMP)


def test_header_names_are_case_insensitive() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert fits(headers, now=TIMESTAMP)


def test_a_secret_without_prefix_is_used_as_utf8_bytes() -> None:
    key = "ein Schlüssel"
    assert signed(key) == signed(whsec(key.encode()))
    assert fits(signed(key), secret=key, now=TIMESTAMP)


@given(
    st.one_of(
        st.text(max_size=40),
        st.builds(
            "".join,
            st.tuples(
                st.sampled_from(["", "v1,", "v1a,", "V1,", " "]),
                st.sampled_from(["whsec_", "whsec-", "WHSEC_", "whsk_", "whpk_", ""]),
                st.one_of(st.binary(max_size=40).map(lambda key: whsec(key)[6:]), st.text()),
                st.sampled_from(["", "\n", " "]),
            ),
        ),
    ),
    TEXT_BODIES,
)
@example("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "{}")
@example("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "{}")
def test_a_secret_is_refused_or_its_owner_can_verify_with_the_specifications_library(
    secret: str, text: str
) -> None:
    if not is_usable(secret):
        return
    # As its owner sees it: Supabase's documentation has "v1," removed, files lose their line end.
    owned = secret.strip().removeprefix("v1,")
    key: str | bytes = owned if owned.startswith("whsec_") else owned.encode()
    body, now = text.encode(), int(time.time())
    headers = sign([secret], webhook_id=ID, timestamp=now, body=body)
    standardwebhooks.Webhook(key).verify(body, headers, json_parse=False)


def test_the_version_before_a_secret_is_no_part_of_its_key() -> None:
    assert signed(f"v1,{SECRET}") == signed()
    assert fits(signed(), secret=f"v1,{SECRET}", now=TIMESTAMP)


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (f" {SECRET}", "leading or trailing spaces"),
        ("a secret from a file\n", "line ends"),
        ("a\tb", "control characters"),
        (SECRET.upper(), "begins with 'whsec_', or any text, got 'WHSEC_…'.*check its prefix"),
        (SECRET.replace("_", "-"), "got 'whsec-…'"),
        (f"v1a,{SECRET}", "asymmetric"),
        (f"v1,{SECRET[6:]}", "check its prefix"),
        ("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
         "asymmetric"),
        ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "asymmetric"),
    ],
)  # fmt: skip
def test_the_error_for_an_unusable_secret_says_what_is_wrong(secret: str, said: str) -> None:
    with pytest.raises(InvalidJob, match=said) as caught:
        signed(secret)
    assert secret not in str(caught.value)
    assert SECRET[6:] not in str(caught.value)


def test_a_base64_secret_may_lack_its_padding() -> None:
    padded = whsec(b"12345")
    assert padded.endswith("=")
    assert signed(padded.rstrip("=")) == signed(padded)


@pytest.mark.parametrize(
    ("secrets", "webhook_id"),
    [
        ([], ID),
        ([""], ID),
        (["whsec_"], ID),
        (["whsec_not base64!"], ID),
        (["whsec_é"], ID),
        (["whsec_AAAAA"], ID),
        (["\ud800"], ID),
        ([SECRET, ""], ID),
        ([SECRET], ""),
        ([SECRET], "a.b"),
    ],
)
def test_an_invalid_secret_or_id_is_an_invalid_job_that_quotes_neither(
    secrets: list[str], webhook_id: str
) -> None:
    with pytest.raises(InvalidJob, match="expected") as caught:
        sign(secrets, webhook_id=webhook_id, timestamp=TIMESTAMP, body=BODY)
    for secret in filter(None, secrets):
        assert secret.removeprefix("whsec_") not in str(caught.value) or secret == "whsec_"
    assert caught.value.__cause__ is None
