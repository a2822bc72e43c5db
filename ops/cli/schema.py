"""``formrelay schema``: the JSON Schema of every job, for publishers in other languages.

The documents are JSON Schema 2020-12 and describe the whole object on the wire,
``{"type", "payload", "metadata"}``. The actors accept
every document that is valid here, and a few more (snake_case names, a number as a time). Only
the actors check rules that depend on a setting or that JSON Schema cannot express, such as
blocked addresses and duplicate headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from pydantic import TypeAdapter

from ...core.errors import ConfigError
from ..output import print_document, say

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"


class JobType(NamedTuple):
    """A type of job, for example ``webhook.send``.

    Attributes:
        name: value of ``type`` in the job.
        actor: name of the actor that runs it.
        queue: name of its queue.
        payload: schema of its payload.
    """

    name: str
    actor: str
    queue: str
    payload: TypeAdapter[Any]


JsonSchema = dict[str, Any]


def document(job: JobType) -> JsonSchema:
    """Return the self-contained schema of one job type."""
    bodies, definitions = _schemas([job])
    return {"$schema": DIALECT, **bodies[job.name], "$defs": definitions}


def catalogue(jobs: Iterable[JobType]) -> JsonSchema:
    """Return one schema for all job types; its ``$defs`` holds each type under its name."""
    bodies, definitions = _schemas(list(jobs))
    return {
        "$schema": DIALECT,
        "title": "A job of formrelay",
        "description": "One of the job types under $defs; `type` says which.",
        "oneOf": [{"$ref": _REF.format(model=name)} for name in bodies],
        "$defs": {**bodies, **definitions},
    }


def job_types() -> list[JobType]:
    """Return the job types by name, with their queues if no setting renames them.

    Reads no configuration and declares no actor.
    """
    from ...actors.job import imported_actors
    from ...config.settings import read_settings

    defaults = read_settings({}, env_file=None).settings
    found = [
        JobType(actor.job_type, actor.actor_name, actor.worker(defaults).queue, actor.schema)
        for actor in imported_actors()
        if actor.job_type is not None
    ]
    return sorted(found)


def _names(incomplete: str) -> list[str]:
    return [job.name for job in job_types() if job.name.startswith(incomplete)]


def schema(
    type: Annotated[
        str | None,
        typer.Argument(
            help="Job type, for example webhook.send. Default: all in one schema.",
            autocompletion=_names,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which to write one file for each job type (TYPE.schema.json)."
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of the jobs. Needs no broker.

    Example: formrelay schema webhook.send
    """
    jobs = job_types()
    chosen = [job for job in jobs if type in (None, job.name)]
    if not chosen:
        known = ", ".join(job.name for job in jobs)
        raise ConfigError(f"expected a job type ({known}), got {type!r}")
    if out is not None:
        _write(out, chosen)
    else:
        print_document(_text(catalogue(jobs) if type is None else document(chosen[0])))


def _schemas(jobs: list[JobType]) -> tuple[dict[str, JsonSchema], dict[str, JsonSchema]]:
    """Return the schema of each job by job type, and the definitions that they share."""
    from ...actors.model import Metadata

    inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [
        (job.name, "validation", job.payload) for job in jobs
    ]
    inputs.append(("", "validation", TypeAdapter(Metadata)))
    parts, shared = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    metadata = parts["", "validation"]
    bodies = {
        job.name: {
            "title": job.name,
            "description": f"A job of {job.actor}. Where no setting renames it, its queue "
            f"is {job.queue!r}.",
            "type": "object",
            "properties": {
                "type": {"const": job.name, "description": "Which job it is."},
                "payload": parts[job.name, "validation"],
                "metadata": metadata,
            },
            "required": ["type", "payload"],
        }
        for job in jobs
    }
    definitions: dict[str, JsonSchema] = shared.get("$defs", {})
    for definition in definitions.values():
        for name, field in definition.get("properties", {}).items():
            # pydantic would make "Formid" of formId.
            field["title"] = re.sub("(?=[A-Z])", " ", name).capitalize()
    return bodies, definitions


def _write(folder: Path, jobs: Iterable[JobType]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            path = folder / f"{job.name}.schema.json"
            path.write_text(_text(document(job)))
            say(str(path))
    except OSError as error:
        raise ConfigError(
            f"expected --out to be a writable folder, got {error.strerror} for {error.filename}"
        ) from None


def _text(value: JsonSchema) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"
