"""Secrets of payloads are encrypted in all that a worker writes, on every broker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import orjson
import pytest
from dramatiq.middleware import CurrentMessage
from pydantic import SecretStr

from formrelay.actors import payload_secrets
from formrelay.actors.fanout import WebhookEndpoint
from formrelay.actors.payload_secrets import ENCRYPTED, encrypted_message, secrets_of
from formrelay.config import BrokerSettings, EncryptionSettings, Settings
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.ops.encrypting import PLAIN, Encryption
from tests.config.test_state_key import new_key
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = pytest.mark.shared_vhost

MARK = "MARKED"
OLD, NEW = new_key(), new_key()
PAYLOAD = {"url": f"https://example.com/{MARK}", "secret": MARK, "headers": {"a": MARK}}
TWICE = RetryPolicy(max_attempts=2, backoff=Schedule((timedelta(0),)))


class Keys:
    """The settings that the code under test reads."""

    def __init__(self) -> None:
        self.use(OLD)

    def use(self, *keys: str, enabled: bool = True) -> None:
        section = EncryptionSettings(keys=SecretStr(",".join(keys)), enabled=enabled)
        self.settings = Settings(broker=BrokerSettings(kind="embedded"), encryption=section)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Keys:
    keys = Keys()
    monkeypatch.setattr(payload_secrets, "get_settings", lambda: keys.settings)
    return keys


class Failing:
    """An actor that fails, and keeps the bytes of each attempt."""

    def __init__(self, harness: Harness, **options: Any) -> None:
        self.bodies: list[bytes] = []
        self.harness = harness
        actor = harness.actor(self.fail, actor_name="fail", policy=TWICE, **options)
        self.actor = cast("Any", actor)
        secrets = secrets_of(WebhookEndpoint)
        self.actor.encrypted = lambda message: encrypted_message(message, secrets)

    def fail(self, **_: Any) -> None:
        message: Any = CurrentMessage.get_current_message()
        self.bodies.append(message.raw or b"")
        raise RuntimeError("fails")

    def plain(self) -> bytes:
        """A message as a stock producer writes it."""
        return orjson.dumps(self.actor.message(payload=PAYLOAD, metadata={}).asdict())


@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "batch_wait": timedelta(seconds=9)}])
def test_plain_jobs_are_encrypted_when_they_are_retried_and_dead_lettered(
    harness: Harness, keys: Keys, options: dict[str, Any]
) -> None:
    failing = Failing(harness, **options)
    harness.inject(failing.plain())
    harness.broker.enqueue(failing.actor.message(payload=PAYLOAD, metadata={}))
    harness.start()
    wait_until(lambda: len(harness.dead()) == 2)
    harness.stop()
    retried = failing.bodies[1:] if options else failing.bodies[2:]
    written = [letter.raw for letter in harness.dead()] + retried
    assert all(written)
    assert not any(MARK.encode() in body for body in written)
    assert all(ENCRYPTED.encode() in body for body in written)


def test_stored_jobs_are_encrypted_with_the_first_key(harness: Harness, keys: Keys) -> None:
    failing = Failing(harness)
    old = failing.actor.message(payload=PAYLOAD, metadata={})
    old = failing.actor.encrypted(old)
    bodies = [orjson.dumps(old.asdict()), failing.plain()]
    harness.bury([(f"id-{number}", body) for number, body in enumerate(bodies)])
    keys.use(NEW)
    run = Encryption(harness.broker, dry_run=True)
    run.run()
    (missing,) = run.missing
    assert {key: n for (_, key), n in run.jobs.items()} == {missing: 1, PLAIN: 1}
    keys.use(NEW, OLD)
    run = Encryption(harness.broker)
    run.run()
    assert (run.changed, run.missing) == (2, set())
    assert not any(MARK.encode() in letter.raw for letter in harness.dead())
    keys.use(NEW)
    run = Encryption(harness.broker, dry_run=True)
    run.run()
    assert (run.changed, run.old(), run.missing) == (0, 0, set())
