"""Versions of formrelay, Python, the installed packages and the servers."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata

from .. import __version__
from ..brokers import RelayBroker
from ..core.server_info import ServerInfo, version_numbers
from ..state.redis.connection import translated

#: Packages that jobs run on, in the order of printing; the optional packages only if installed.
PACKAGES = (
    "dramatiq",
    "pydantic",
    "pycurl",
    "redis",
    "pika",
    "clickhouse-driver",
    "chdb-core-lite",
)
#: The oldest versions of servers; docs/brokers.md.
OLDEST_SERVERS = {"Redis": (6, 2), "RabbitMQ": (3, 10)}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*\(?([^;)]*)")
_LOWER, _UPPER = re.compile(r">=\s*([0-9][0-9.]*)"), re.compile(r"<\s*([0-9][0-9.]*)")


def installed() -> dict[str, str]:
    """Return the versions of formrelay, Python and the packages."""
    found = {"formrelay": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def unsupported_packages() -> Iterator[str]:
    """Yield a sentence for each installed package whose version formrelay does not support."""
    for name, (lower, upper) in _requirements().items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        numbers = version_numbers(version)
        if lower and numbers < version_numbers(lower):
            yield f"expected {name} {lower} or newer, got {version}: pip install --upgrade {name}"
        elif upper and numbers >= version_numbers(upper):
            yield f"expected {name} before {upper}, got {version}: pip install '{name}<{upper}'"


@cache
def _requirements() -> dict[str, tuple[str, str]]:
    """Lower and upper bound of each package that formrelay needs; empty texts for none."""
    try:
        lines = metadata.requires("formrelay") or []
    except metadata.PackageNotFoundError:  # run from a checkout without an installation
        return {}
    found = {}
    for line in lines:
        is_for_development = re.search(r"extra\s*==\s*['\"](dev|test|docs)['\"]", line)
        match = _REQUIREMENT.match(line)
        if match is None or is_for_development:
            continue
        lower, upper = _LOWER.search(match[2]), _UPPER.search(match[2])
        found[match[1]] = (lower[1] if lower else "", upper[1] if upper else "")
    return found


def servers(broker: RelayBroker) -> dict[str, ServerInfo]:
    """Ask the broker and the shared store for their versions.

    Returns:
        By ``broker`` and ``store``; the store only if it is another server than the broker.

    Raises:
        BrokerUnavailable, BrokerRefused: a server did not answer.
    """
    found = {}
    info = broker.server_info()
    if info is not None:
        found["broker"] = info
    store = store_info(broker)
    if store is not None:
        found["store"] = store
    return found


def store_info(broker: RelayBroker) -> ServerInfo | None:
    """Ask the shared store for its version; None if the broker is its server, or without one."""
    state = broker.state
    if state is None or state.client is getattr(broker, "client", None):
        return None
    from ..state.redis.server_info import read_server_info

    with translated(state.where):
        return read_server_info(state.client, broker.clock)


def too_old(info: ServerInfo) -> str | None:
    """Return a sentence about a server that is too old for a broker; None if it is not."""
    oldest = OLDEST_SERVERS.get(info.product)
    numbers = version_numbers(info.version)
    if oldest is None or not numbers or numbers >= oldest:
        return None
    wanted = ".".join(map(str, oldest))
    return f"expected {info.product} {wanted} or newer, got {info.version}: upgrade the server"
