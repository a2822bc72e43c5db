"""``manage.py formrelay_worker``: start workers with the project's settings and actors."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ....core.errors import FormrelayError
from ....core.printable import printable
from ....ops.worker.boot import become_workers, exit_status
from ...discovery import declare_all
from ...outbox import check_sends_jobs
from ...project_folders import project_folders


class Command(BaseCommand):
    """Start formrelay's workers."""

    help = (
        "Start workers for formrelay's jobs, and for the actors and tasks in actors.py and "
        "tasks.py of installed apps."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("queues", nargs="*", metavar="QUEUE", help="Consume only these queues.")
        add("--queue", "-q", action="append", help="Consume only this queue. Can be repeated.")
        add("--tasks", action="store_true", help="Consume the queues of TASKS. Adds to --queue.")
        add("--processes", type=int, help="Number of processes. Default: WORKER_PROCESSES.")
        add("--threads", type=int, help="Threads for each process. Default: WORKER_CONCURRENCY.")

    def handle(self, *args: Any, **options: Any) -> None:
        for name in ("processes", "threads"):
            if options[name] is not None and options[name] < 1:
                raise CommandError(
                    f"expected --{name} to be at least 1, got {options[name]}", returncode=2
                )
        try:
            check_sends_jobs()
            become_workers(
                "formrelay.djangoapp.worker:broker",
                queues=_queues(options),
                processes=options["processes"],
                threads=options["threads"],
                declare=declare_all,
                import_from=list(project_folders()),
            )
        except FormrelayError as error:
            raise CommandError(
                printable(str(error), keep="\n"), returncode=exit_status(error)
            ) from None


def _queues(options: dict[str, Any]) -> list[str] | None:
    """The queues to consume; None for all."""
    queues: list[str] | None = [*options["queues"], *(options["queue"] or ())] or None
    if not options["tasks"]:
        return queues
    found = declare_all()
    if not found:
        raise CommandError(
            "expected a backend 'formrelay.djangoapp.tasks.FormrelayBackend' in the setting TASKS "
            "for --tasks, got none: see docs/django-tasks.md",
            returncode=2,
        )
    return sorted({*found, *(queues or ())})
