"""Reads the commands, variables and stop times out of the files in deploy/."""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.checkout import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
MANIFESTS = DEPLOY / "kubernetes"
UNITS = DEPLOY / "systemd"
#: Path of the command in units; the virtual environment of the image is in the same folder.
PROGRAM = "/opt/formrelay/bin/formrelay"
#: Manifests of a kind that is not Kubernetes's own.
NOT_OF_KUBERNETES = {"keda.yaml", "kustomization.yaml"}
#: What compose.yaml takes from the environment of the person who runs it.
GIVEN = {"COMPOSE_PROFILES": "redis", "API_URL": "https://forms.example"}


@dataclass(frozen=True)
class Launch:
    """A program that a file of deploy/ starts.

    Attributes:
        origin: the file and the name in it.
        words: the words of the command after ``formrelay``.
        env: variables.
        stop_seconds: time from SIGTERM until it is killed; None if the file does not say.
        health: the words of its health check, if it has its own.
    """

    origin: str
    words: list[str]
    env: dict[str, str] = field(default_factory=dict)
    stop_seconds: float | None = None
    health: list[str] = field(default_factory=list)

    @property
    def is_worker(self) -> bool:
        """Whether it runs jobs."""
        return self.words[:1] == ["worker"]

    @property
    def queues(self) -> list[str]:
        """The queues that a worker names; empty for all queues."""
        return [after for word, after in zip(self.words, self.words[1:], strict=False)
                if word == "--queue"]  # fmt: skip


def launches() -> list[Launch]:
    """Everything that the files start."""
    return [
        Launch("Dockerfile", dockerfile()["CMD"]),
        *procfile(),
        *units(),
        *services(),
        *pods(),
    ]


def dockerfile() -> dict[str, list[str]]:
    """The instructions of the last stage in exec form: HEALTHCHECK, ENTRYPOINT and CMD."""
    last = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    found = re.findall(r"^(HEALTHCHECK|ENTRYPOINT|CMD)[^\[\n]*(\[.*\])$", last, re.M)
    return {name: json.loads(words) for name, words in found}


def procfile() -> Iterator[Launch]:
    """The processes of Procfile."""
    for line in (DEPLOY / "Procfile").read_text().splitlines():
        name, _, command = line.partition(": ")
        program, *words = shlex.split(command)
        assert program == "formrelay"
        yield Launch(f"Procfile: {name}", words)


def units(instance: str = "webhooks") -> Iterator[Launch]:
    """The units of systemd; `instance` is the instance name of template units."""
    for path in sorted(UNITS.glob("*.service")):
        options = unit_options(path)
        program, *words = shlex.split(options["ExecStart"][-1].replace("%i", instance))
        assert program == PROGRAM
        env = dict(line.split("=", 1) for line in options["Environment"])
        stop = float(options["TimeoutStopSec"][-1])
        yield Launch(f"systemd/{path.name}", words, env, stop)


def unit_options(path: Path) -> dict[str, list[str]]:
    """The values of each option of a unit, in their order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@functools.cache
def _yaml(path: Path) -> tuple[Any, ...]:
    return tuple(yaml.safe_load_all(path.read_text()))


def compose(given: Mapping[str, str] = GIVEN) -> dict[str, Any]:
    """compose.yaml with the variables of `given`, or their defaults, in its texts."""

    def text_of(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        if name in given:
            return given[name]
        assert kind == ":-", f"{name} has no default"
        return str(default)

    def filled(node: Any) -> Any:
        match node:
            case str():
                return re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", text_of, node)
            case list():
                return [filled(each) for each in node]
            case dict():
                return {name: filled(each) for name, each in node.items()}
        return node

    found: dict[str, Any] = filled(_yaml(COMPOSE)[0])
    return found


def services(given: Mapping[str, str] = GIVEN) -> Iterator[Launch]:
    """The services of compose.yaml that run formrelay."""
    for name, service in compose(given)["services"].items():
        if service["image"].startswith("formrelay:"):
            stop = float(service.get("stop_grace_period", "10s").removesuffix("s"))
            health = service["healthcheck"].get("test", [])[1:]
            env = service["environment"]
            yield Launch(f"compose.yaml: {name}", service["command"], env, stop, health)


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each document in deploy/kubernetes, with the name of its file."""
    for path in sorted(MANIFESTS.glob("*.yaml")):
        for document in _yaml(path):
            yield path.name, document


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """The specification of each pod, with the name of its Deployment or Job."""
    for _, document in manifests():
        if document.get("kind") in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def pods() -> Iterator[Launch]:
    """The containers of deploy/kubernetes."""
    maps = {
        document["metadata"]["name"]: document["data"]
        for _, document in manifests()
        if document["kind"] == "ConfigMap"
    }
    for name, pod in pod_specs():
        (container,) = pod["containers"]
        env = {}
        for source in container["envFrom"]:
            env |= maps[source["configMapRef"]["name"]]
        env |= {each["name"]: each["value"] for each in container.get("env", ())}
        stop = pod.get("terminationGracePeriodSeconds", 30)
        yield Launch(f"kubernetes: {name}", container["args"], env, stop)
