"""The checks of versions and clocks in ``formrelay doctor``."""

from __future__ import annotations

from collections.abc import Iterator

from ...brokers import get_broker
from ..versions import installed, servers, too_old, unsupported_packages
from .finding import Finding

#: Seconds by which clocks may differ: jobs run late or early by as much.
_WEAK_SECONDS = 1.0
#: Seconds from which receivers may refuse the signatures of webhooks: most allow five minutes.
_BAD_SECONDS = 240.0


def check_versions() -> Iterator[Finding]:
    """Check packages, and the versions and clocks of the servers."""
    problems = list(unsupported_packages())
    for problem in problems:
        yield Finding("versions", "bad", problem)
    found = servers(get_broker())
    for info in found.values():
        is_old = too_old(info)
        if is_old is not None:
            yield Finding("versions", "bad", is_old)
            problems.append(is_old)
    if not problems:
        versions = installed()
        named = [f"{name} {versions[name]}" for name in ("formrelay", "python", "dramatiq")]
        named += [f"{info.product} {info.version}" for info in found.values()]
        yield Finding("versions", "ok", ", ".join(named))
    for info in found.values():
        if info.clock_ahead is not None:
            yield check_clock(info.product, info.clock_ahead, info.clock_error)


def check_clock(product: str, ahead: float, error: float) -> Finding:
    """Compare the clock of a server with that of this machine.

    Args:
        ahead: how many seconds the server's clock is ahead.
        error: maximum error of ``ahead``.
    """
    least = abs(ahead) - error
    if least < _WEAK_SECONDS:
        return Finding("clock", "ok", f"this machine and {product} agree within a second")
    which = "ahead of" if ahead > 0 else "behind"
    says = f"the clock of {product} is {abs(ahead):,.0f} s {which} the clock of this machine"
    if least >= _BAD_SECONDS:
        says += ": receivers may refuse the signatures of webhooks"
    todo = "synchronise both clocks (chrony, systemd-timesyncd)"
    return Finding("clock", "bad" if least >= _BAD_SECONDS else "weak", f"{says}; {todo}")
