"""What tools of other packages find in formrelay's app."""

from __future__ import annotations

import io
import sys
from importlib import import_module


def of_rundramatiq() -> list[list[str]]:
    """Import the modules of formrelay that `manage.py rundramatiq` finds."""
    from django_dramatiq.management.commands.rundramatiq import Command

    found = Command(stdout=io.StringIO()).discover_tasks_modules()
    ours = [name for name in found if name.startswith("formrelay.")]
    for name in ours:
        import_module(name)
    backend = [name for name in sys.modules if name.startswith("formrelay.djangoapp.task_backend")]
    return [ours, backend]
