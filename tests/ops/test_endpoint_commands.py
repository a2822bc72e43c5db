"""``formrelay webhooks endpoints``: URLs, circuit breakers, enabling and disabling."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from formrelay.actors.webhooks.actor import endpoint_of_url
from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.ops.endpoints import near, shown_url
from tests.ops.shell import Shell
from tests.support.command import run

URL = "https://hooks.example.com/services/T0AB12CD34EF/hook?token=s3cret"
ID = endpoint_of_url(URL)


@contextmanager
def registry_of(shell: Shell) -> Iterator[RedisRegistry]:
    with shell.redis_client() as client:
        yield RedisRegistry(client, "the embedded one")


def test_failing_endpoints_are_listed_disabled_and_enabled(shell: Shell, api_url: str) -> None:
    shell.env["API_URL"] = api_url
    with registry_of(shell) as registry:
        failing = DeliveryReport("e1", "example.com", False, 3, 1.0, 2.0, 503)
        gone = DeliveryReport("e2", "example.org", False, 1, 1.0, 2.0, 410, is_gone=True)
        registry.report([failing, gone], DisableRules())
        first, second = shell.json("webhooks", "endpoints")
        assert (first["id"], first["host"], first["state"]) == ("e2", "example.org", "disabled")
        assert (first["why"], first["last_status"]) == ("the endpoint answered 410 (Gone)", 410)
        assert (second["id"], second["failures"], second["disabled_at"]) == ("e1", 3, None)
        assert (second["state"], second["url"]) == ("failing", None)
        several = shell("webhooks", "endpoints", "disable", "e", status=2).stderr
        assert "matches several: e2, e1" in several or "matches several: e1, e2" in several
        assert shell("webhooks", "endpoints", "disable", "e1").stdout == "disabled: e1\n"
        assert shell("webhooks", "endpoints", "disable", "e1").stdout == "already disabled: e1\n"
        again = {"id": "e1", "done": "already disabled"}
        assert shell.json("webhooks", "endpoints", "disable", "e1") == again
        assert "2 are disabled" in shell("doctor").stdout
        done = {"id": "e1", "done": "enabled"}
        assert shell.json("webhooks", "endpoints", "enable", "e1") == done
        error = shell("webhooks", "endpoints", "enable", "e1", status=1).stderr
        assert "neither failing nor disabled (similar: e2)" in error
        assert [one["id"] for one in shell.json("webhooks", "endpoints")] == ["e2"]
        audit = [(one["action"], one["target"]) for one in shell.json("audit")]
        actions = ("webhooks endpoints enable", "webhooks endpoints disable")
        assert audit == [(action, "e1") for action in actions]


def test_an_endpoint_shows_its_url_and_until_when_its_circuit_is_open(shell: Shell) -> None:
    shell.send(URL, "--delay", "3600")
    with registry_of(shell) as registry:
        until = time.time() + 300
        failing = DeliveryReport(ID, "hooks.example.com", False, 5, 1.0, 2.0, 503)
        failing.open_until = until
        registry.report([failing], DisableRules())
        (shown,) = shell.json("webhooks", "endpoints")
        assert (shown["state"], shown["url"]) == ("open", "hooks.example.com/services/[…]/hook?[…]")
        _, line = shell("webhooks", "endpoints").stdout.splitlines()
        assert line.startswith(f"{ID}  open")
        assert "hooks.example.com/services/[…]/hook?[…]; failing for" in line
        assert f"circuit open until {shown['open_until']} (4m left)" in line
        (revealed,) = shell.json("webhooks", "endpoints", "--reveal")
        assert revealed["url"] == URL


def test_an_unknown_endpoint_is_not_disabled_by_mistake(shell: Shell) -> None:
    shell.send(URL, "--delay", "3600")
    error = shell("webhooks", "endpoints", "disable", ID[:-1] + "x", status=1).stderr
    assert f"(similar: {ID}): check the id; to disable it all the same, add --yes" in error
    assert shell.json("webhooks", "endpoints") == []
    done = shell("webhooks", "endpoints", "disable", "other", "--yes")
    assert done.stdout == "disabled: other\n"
    assert "no failing endpoint and no job has this id" in done.stderr
    # An endpoint that works is known by its jobs, or named by its URL.
    assert shell("webhooks", "endpoints", "disable", ID[:12]).stdout == f"disabled: {ID}\n"
    other = "https://example.com/fine"
    done = shell("webhooks", "endpoints", "disable", other)
    assert done.stdout == f"disabled: {endpoint_of_url(other)}\n"


def test_without_a_shared_store_listing_endpoints_is_an_error(shell: Shell) -> None:
    environ = {"RABBITMQ_URL": "amqp://127.0.0.1:1"}
    done = run("webhooks", "endpoints", cwd=shell.folder, env=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "set STATE_URL to a Redis" in done.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com", "example.com"),
        (
            "https://user:pw@example.com:8443/api/v1/hooks/42?key=x#y",
            "example.com:8443/api/v1/hooks/42?[…]",
        ),
        (
            "https://example.com/form-submissions/stripe.webhooks",
            "example.com/form-submissions/stripe.webhooks",
        ),
        (
            "https://hooks.slack.example/services/T024BE7LD/B1/abcDEF123456",
            "hooks.slack.example/services/[…]/B1/[…]",
        ),
        ("https://example.com/%e2%80%ae", "example.com/[…]"),
        ("https://[bad/", "[…]"),
    ],
)
def test_the_query_and_what_may_be_a_key_are_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_similar_ids_are_found() -> None:
    known = {"url_0f8a5c21d3b94e76", "url_ffffffffffffffff", "crm"}
    assert near("url_0f8a5c21d3b94e67", known)[0] == "url_0f8a5c21d3b94e76"
    assert near("nothing", known) == []
