"""STATE_KEY: the keys that encrypt OAuth tokens."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from formrelay.state.key_ring import KeyRing, UnknownKey
from tests.config.test_secrets import fault, load, write
from tests.support.checkout import ROOT


def new_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def test_keys_are_separated_by_commas_with_or_without_spaces() -> None:
    one, two = new_key(), new_key()
    assert load().broker.secret("state_key") is None
    assert load(STATE_KEY=one).broker.secret("state_key") == one
    assert load(STATE_KEY=f"{one} , {two}").broker.secret("state_key") == f"{one},{two}"


@pytest.mark.parametrize(
    "key",
    [
        "hunter2", "hunter2" * 10, new_key()[:-1], new_key() + "=", new_key().replace("=", "A"),
        "hunter2" + new_key()[7:-2] + "B=", "+hunter2" + new_key()[8:],
    ],
)  # fmt: skip
def test_a_wrong_key_is_one_line_that_does_not_quote_it(key: str) -> None:
    said = fault(STATE_KEY=key)
    assert said.startswith("expected STATE_KEY to be keys of 32 bytes in URL-safe base64")
    assert f"({len(key)} characters)" in said
    assert said.endswith("openssl rand -base64 32 | tr +/ -_`")
    assert "\n" not in said
    assert "hunter2" not in said
    assert key not in said
    assert "whose key 2 of 3 is not" in fault(STATE_KEY=f"{new_key()},{key},{new_key()}")
    assert "whose key 2 of 2 is not" in fault(STATE_KEY=f"{new_key()},")


def test_every_key_that_is_accepted_can_be_used() -> None:
    for _ in range(100):
        key = new_key()
        section = load(STATE_KEY=key).broker
        ring = KeyRing(lambda section=section: section.secret("state_key"))
        assert ring.decrypt(ring.encrypt(b"data")) == b"data"


def test_a_file_with_keys_is_read_again(tmp_path: Path) -> None:
    path, one, two = tmp_path / "keys", new_key(), new_key()
    write(path, one)
    section = load(STATE_KEY_FILE=str(path)).broker
    ring = KeyRing(lambda: section.secret("state_key"))
    old = ring.encrypt(b"data")
    write(path, f"{two},{one}")
    assert ring.decrypt(old) == b"data"
    new = ring.rotate(old)
    write(path, two)
    assert ring.decrypt(new) == b"data"
    with pytest.raises(UnknownKey):
        ring.decrypt(old)
    write(path, "hunter2")  # half of a rotation: the last valid keys stay in use
    assert ring.decrypt(new) == b"data"


def test_the_command_in_the_help_makes_a_key() -> None:
    text = (ROOT / ".env.example").read_text().replace("\n# ", " ")
    found = re.search(r"`(openssl rand [^`]+)`", text)
    assert found is not None
    made = subprocess.run(found[1], shell=True, check=True, capture_output=True, text=True)
    assert load(STATE_KEY=made.stdout.strip()).broker.secret("state_key")
