"""Runs scripts/servers.py as if Redis were not installed; start it in the checkout."""

from __future__ import annotations

import runpy

from tests.support.servers import RedisServer

if __name__ == "__main__":
    RedisServer.program = classmethod(lambda cls: None)  # type: ignore[method-assign, assignment]
    runpy.run_path("scripts/servers.py", run_name="__main__")
