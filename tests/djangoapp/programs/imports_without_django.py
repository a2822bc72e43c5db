"""Imports formrelay without its Django app, as if Django were not installed."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.modules["django"] = None  # type: ignore[assignment]
    import formrelay.actors
    import formrelay.ops.cli
    import formrelay.ops.cli.app
    import formrelay.ops.worker.boot

    assert not any(name.startswith("formrelay.djangoapp") for name in sys.modules)
