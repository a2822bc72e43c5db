"""Configures formrelay in the process that is measured."""

from __future__ import annotations

import logging
import os
from pathlib import Path


def configure(**variables: str) -> None:
    """Set the environment for the Redis of the benchmark, and write the log lines to /dev/null."""
    os.environ.update(
        BROKER="redis",
        REDIS_URL=os.environ["FORMRELAY_TEST_REDIS_URL"],
        BROKER_NAMESPACE="ours",
        LOG_LEVEL="info",
        **variables,
    )
    from formrelay.config import get_settings
    from formrelay.ops.logs import setup_logging

    log = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
    logging.getLogger().handlers[:] = [logging.StreamHandler(log)]
    setup_logging(get_settings().logging)
