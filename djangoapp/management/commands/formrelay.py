"""``manage.py formrelay …``: the formrelay command with the project's settings and actors."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ....ops.host import Host, use_host
from ... import conf
from ...discovery import declare_all
from ...outbox import check_sends_jobs
from ...project_folders import project_folders


class Command(BaseCommand):
    """Run the formrelay command."""

    help = (
        "Run the formrelay command with the setting FORMRELAY and the project's actors, "
        "for example: manage.py formrelay dlq list"
    )
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Leave the arguments to the formrelay command, whose options Django does not know."""
        from ....ops.cli import main

        use_host(
            Host(
                worker="formrelay.djangoapp.worker:broker",
                declare=declare_all,
                check_worker=check_sends_jobs,
                import_from=project_folders,
                given=conf.given,
            )
        )
        sys.argv = [" ".join([argv[0], argv[1]]), *argv[2:]]
        main()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("arguments", nargs="*", help="The arguments of formrelay.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run from ``call_command``."""
        self.run_from_argv(["manage.py", "formrelay", *options["arguments"]])
