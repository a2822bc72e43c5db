"""Runs a demo of one answer whose receiver expects another signing secret."""

from __future__ import annotations

import sys

from formrelay.ops.demo.environment import signing_secret
from formrelay.ops.demo.run import Options, run_demo

if __name__ == "__main__":
    sys.exit(run_demo(Options(limit=1, receiver_secret=signing_secret())))
