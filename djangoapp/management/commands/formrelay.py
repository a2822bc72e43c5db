"""``manage.py formrelay …``: the formrelay command with the project's settings and queues."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ....core.errors import NotConfigured
from ....ops.boot import WRONG_USE, one_line_errors
from ....ops.output import say_error
from ...discovery import declare_all

#: Commands that would not have the project's settings or tasks, and what to run instead.
_REFUSED = {
    "config": "it shows the environment without the setting FORMRELAY; run `formrelay config`",
    "demo": "it has settings of its own; run `formrelay demo`",
    "worker": "run manage.py formrelay_worker, which has the project's actors and tasks",
}


class Command(BaseCommand):
    """Run the formrelay command."""

    help = (
        "Run the formrelay command with the setting FORMRELAY and the project's queues, "
        "for example: manage.py formrelay dlq list"
    )
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Leave the arguments to the formrelay command, whose options Django does not know."""
        from ....ops.cli import main

        name = argv[2] if len(argv) > 2 else ""
        if name in _REFUSED:
            say_error(f"expected another command than {name!r} of formrelay: {_REFUSED[name]}")
            sys.exit(WRONG_USE)
        # Some commands need no broker; the others say that none is configured.
        with one_line_errors(), suppress(NotConfigured):
            declare_all()
        sys.argv = [" ".join([argv[0], argv[1]]), *argv[2:]]
        main()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs="*", help="The arguments of formrelay.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run from ``call_command``."""
        self.run_from_argv(["manage.py", "formrelay", *options["arguments"]])
