"""Tasks as a project writes them."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from django.db import transaction
from shop.models import Note

from chores.api import TaskContext, signals, task

FOLDER = Path(os.environ["HOST_DATABASE"]).parent


def write(text: str) -> None:
    """Write a note."""
    with transaction.atomic():
        Note.objects.create(text=text)


@task
def note(text: str) -> int:
    write(text)
    return len(text)


@task
async def note_async(text: str) -> str:
    await asyncio.sleep(0)
    await Note.objects.acreate(text=text)
    return text


@task(queue_name="slow", takes_context=True)
def attempts(context: TaskContext, fail_until: int) -> dict[str, Any]:
    """Fail before attempt `fail_until`."""
    write(f"attempt {context.attempt}")
    if context.attempt < fail_until:
        raise LookupError(f"attempt {context.attempt}")
    return {"id": context.task_result.id, "status": str(context.task_result.status.value)}


@task(queue_name="slow")
def broken(text: str) -> None:
    if not (FOLDER / "repaired").exists():
        raise ValueError("broken")
    write(text)


@task
def returns_what_is_no_json() -> Any:
    write("has run")
    return object()


@task(time_limit=1000, max_retries=0)
async def too_long() -> None:
    write_soon = asyncio.to_thread(write, "begun")
    await write_soon
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        (FOLDER / "cancelled").touch()
        raise


@task
def until_told(name: str) -> None:
    """Say which process runs it, and wait."""
    with (FOLDER / f"{name}.pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not (FOLDER / f"{name}.go").exists():
        time.sleep(0.02)
    write(name)


def _listen(name: str) -> None:
    def heard(task_result: Any, **_: Any) -> None:
        line = [name, task_result.id, str(task_result.status.value)]
        with (FOLDER / "signals").open("a") as file:
            file.write(json.dumps(line) + "\n")

    getattr(signals, f"task_{name}").connect(heard, weak=False)


for _name in ("enqueued", "started", "finished"):
    _listen(_name)
