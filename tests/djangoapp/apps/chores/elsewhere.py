"""Tasks that no worker imports when it starts, and functions that are no tasks."""

from chores.api import task
from chores.tasks import write


@task
def far(text: str) -> None:
    write(text)


def _hidden(text: str) -> None:
    write(text)


shown = task(_hidden)
