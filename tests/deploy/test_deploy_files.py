"""The files in deploy/ pass the checkers of their formats, and agree with formrelay."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from dramatiq import cli
from typer.main import get_command

import formrelay
from formrelay.config.settings import read_settings, variables
from formrelay.ops.cli.app import app
from tests.support.checkout import ROOT, installed_files
from tests.support.deploy import (
    COMPOSE,
    DEPLOY,
    MANIFESTS,
    NOT_OF_KUBERNETES,
    PROGRAM,
    UNITS,
    Launch,
    compose,
    dockerfile,
    launches,
    manifests,
    pod_specs,
    procfile,
    services,
    unit_options,
    units,
)
from tests.support.missing import skip_or_fail

LAUNCHES = launches()
COMMANDS: Any = get_command(app)
WORKERS = [each for each in LAUNCHES if each.is_worker]
#: Oldest and newest version of Kubernetes for which the manifests are checked.
KUBERNETES = ("1.31", "1.36")
#: Highest exposure that systemd-analyze may compute for a unit, in tenths; 100 is no protection.
EXPOSURE = 20


def by_origin(launch: Launch) -> str:
    return launch.origin


# ---- The checkers of each format ---------------------------------------------------------


def test_the_dockerfile_passes_hadolint() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program
    done = subprocess.run([program, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_fits_the_compose_specification() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    # Before variables are replaced, as docker does.
    jsonschema.validate(yaml.safe_load(COMPOSE.read_text()), schema)


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    checked = [document for name, document in manifests() if name not in NOT_OF_KUBERNETES]
    assert len(checked) > 10
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)


def test_systemd_understands_the_units_and_finds_them_protected(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        skip_or_fail("systemd-analyze is missing: apt-get install systemd")
    program = tmp_path / "formrelay"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    paths = []
    for path in UNITS.glob("*.service"):
        # It checks a template by an instance.
        paths.append(tmp_path / path.name.replace("@.", "@webhooks."))
        paths[-1].write_text(path.read_text().replace(PROGRAM, str(program)))
    for command in (
        ["verify", "--man=no"],
        ["security", "--offline=true", f"--threshold={EXPOSURE}"],
    ):
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", *command, *paths], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), command


# ---- The files and formrelay ---------------------------------------------------------------


@pytest.mark.parametrize("launch", LAUNCHES, ids=by_origin)
def test_each_command_exists_with_its_options(launch: Launch) -> None:
    for given in (launch.words, launch.health[1:] if launch.health[:1] == ["formrelay"] else []):
        command: Any = COMMANDS
        words = list(given)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("-")} <= options
        assert not hasattr(command, "commands") or not words, f"{launch.origin}: {words}"


def test_the_health_check_of_the_image_is_that_of_its_workers() -> None:
    check = dockerfile()["HEALTHCHECK"]
    assert check == ["formrelay", "health", "--here"]
    assert all(each.health == check for each in services() if each.is_worker)


def test_signals_reach_formrelay_in_the_image() -> None:
    assert dockerfile()["ENTRYPOINT"] == ["tini", "--", "formrelay"]


@pytest.mark.parametrize("launch", LAUNCHES, ids=by_origin)
def test_each_variable_is_one_of_formrelay_and_no_secret_is_given_as_text(launch: Launch) -> None:
    known = variables()
    secrets = {name for name, variable in known.items() if variable.is_secret}
    allowed = {*known.keys() - secrets, *(f"{name}_FILE" for name in secrets)}
    assert launch.env.keys() <= allowed


@pytest.mark.parametrize("launch", LAUNCHES, ids=by_origin)
def test_each_variable_has_a_valid_value(launch: Launch) -> None:
    env = {name: value for name, value in launch.env.items() if not name.endswith("_FILE")}
    env |= {
        "BROKER": env.get("BROKER", "redis"),
        "REDIS_URL": "redis://h",
        "RABBITMQ_URL": "amqp://h",
    }
    assert not read_settings(env, env_file=None).invalid


@pytest.mark.parametrize("launch", WORKERS, ids=by_origin)
def test_a_worker_has_more_time_to_stop_than_it_waits_for_its_jobs(launch: Launch) -> None:
    if launch.origin == "Dockerfile" or launch.origin.startswith("Procfile"):
        return  # who runs them decides
    parser: Any = cli.make_argument_parser()  # type: ignore[no-untyped-call]
    waits = parser.get_default("worker_shutdown_timeout") / 1000
    assert waits + 30 <= (launch.stop_seconds or 0)


@pytest.mark.parametrize("place", ["compose.yaml", "kubernetes", "Procfile"])
def test_each_queue_has_workers(place: str) -> None:
    settings = read_settings({"BROKER": "embedded"}, env_file=None).settings
    groups = (settings.events, settings.submissions, settings.partials, settings.webhooks)
    expected = {group.queue for group in (*groups, settings.emails, settings.sheets)}
    assert {
        queue for each in WORKERS if each.origin.startswith(place) for queue in each.queues
    } == expected


# ---- systemd -------------------------------------------------------------------------------


def test_units_of_workers_notify_and_get_one_signal() -> None:
    for path in UNITS.glob("formrelay-worker*.service"):
        options = unit_options(path)
        found = [*options["Type"], *options["NotifyAccess"], *options["KillMode"]]
        assert found == ["notify", "all", "mixed"]
        assert options["Restart"] == ["always"]


def test_units_differ_only_in_what_they_start() -> None:
    def protection(path: Path) -> str:
        return path.read_text().partition("# Least power")[2]

    first, *others = map(protection, UNITS.glob("*.service"))
    assert first
    assert all(other == first for other in others)
    assert len(list(units())) == 1 + len(others)


# ---- The image -----------------------------------------------------------------------------


def test_the_image_gets_the_files_of_the_wheel_and_no_others() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    kept = {line.removeprefix("!/") for line in lines if line.startswith("!")}
    needed = {path.parts[0] for path in installed_files().values()}
    assert kept == {*needed, "LICENSE", "README.md", "pyproject.toml", "setup.cfg"}
    assert {".env", "__pycache__"} <= {line.removeprefix("**/") for line in lines}


def test_every_image_has_a_version() -> None:
    images = [service["image"] for service in compose()["services"].values()]
    images += [container["image"] for _, pod in pod_specs() for container in pod["containers"]]
    assert all(re.search(r":[\w.-]*\d|^formrelay:latest$", image) for image in images)
    ours = {image for image in images if image.startswith("formrelay:")}
    assert ours == {"formrelay:latest", f"formrelay:{formrelay.__version__}"}


# ---- Compose -------------------------------------------------------------------------------


def test_compose_creates_its_secrets_and_formrelay_reads_them(tmp_path: Path) -> None:
    script = shutil.copy(DEPLOY / "secrets" / "create", tmp_path)
    subprocess.run([script], check=True)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    subprocess.run([script], check=True)  # changes nothing
    assert texts == {path.name: path.read_text() for path in tmp_path.iterdir()}
    by_hand = {"smtp-url", "sheets-service-account"}
    parts = {"create", "redis-password", "rabbitmq-password"}
    declared = {secret["file"] for secret in compose()["secrets"].values()}
    assert declared == {f"secrets/{name}" for name in {*texts, *by_hand} - parts}
    for name in by_hand:  # as an operator does
        (tmp_path / name).write_text("smtp://mail.example" if name == "smtp-url" else "{}")
    for broker in ("redis", "rabbitmq"):
        for each in services({"COMPOSE_PROFILES": broker, "API_URL": "https://forms.example"}):
            folder = str(tmp_path)
            env = {name: text.replace("/run/secrets", folder) for name, text in each.env.items()}
            env.pop("SHEETS_SERVICE_ACCOUNT_FILE", None)  # Google makes its content
            reading = read_settings(env, env_file=None)
            assert not reading.invalid
            assert reading.settings.broker.kind == broker


def test_services_have_the_secrets_that_they_name() -> None:
    for name, service in compose()["services"].items():
        texts = (*service.get("environment", {}).values(), *service.get("command", ()))
        named = {text.rpartition("/")[2] for text in texts if text.startswith("/run/secrets/")}
        given = {
            secret if isinstance(secret, str) else secret["source"]
            for secret in service.get("secrets", ())
        }
        assert named <= given <= set(compose()["secrets"]), name


def test_a_service_needs_the_broker_of_its_profile_alone() -> None:
    for service in compose()["services"].values():
        if service["image"].startswith("formrelay:"):
            assert service["depends_on"]["rabbitmq"]["required"] is False
            assert service["depends_on"]["redis"] == {"condition": "service_healthy"}
    assert compose()["services"]["rabbitmq"]["profiles"] == ["rabbitmq"]


@pytest.mark.parametrize("service", ["events", "monitor", "migrate", "dashboard", "redis"])
def test_a_service_has_no_rights_that_it_does_not_need(service: str) -> None:
    found = compose()["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]


# ---- Kubernetes ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "pod"), list(pod_specs()), ids=lambda value: str(value)[:30])
def test_a_pod_has_no_rights_that_it_does_not_need(name: str, pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts == {"tmp": "/tmp", "secrets": "/run/secrets/formrelay"}


def test_probes_of_workers_ask_the_port_of_their_container() -> None:
    for name, pod in pod_specs():
        (container,) = pod["containers"]
        if container["args"][0] == "worker":
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            paths = {
                kind: container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")
            }
            assert paths == {
                "liveness": {"path": "/livez", "port": "http"},
                "readiness": {"path": "/readyz", "port": "http"},
            }
            launch = next(each for each in LAUNCHES if each.origin == f"kubernetes: {name}")
            assert launch.env["WORKER_HTTP_PORT"] == str(ports["http"])
            assert launch.env["WORKER_HTTP_HOST"] == "0.0.0.0"  # loopback is closed to the kubelet


def test_each_deployment_is_selected_by_what_refers_to_it() -> None:
    labels = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
        for _, document in manifests()
        if document.get("kind") == "Deployment"
    }
    budgets = []
    for _, document in manifests():
        kind, spec = document["kind"], document.get("spec", {})
        if kind == "Deployment":
            assert spec["selector"]["matchLabels"] == labels[document["metadata"]["name"]]
        elif kind == "PodDisruptionBudget":
            assert spec["selector"]["matchLabels"] == labels[document["metadata"]["name"]]
            budgets.append(document["metadata"]["name"])
        elif kind == "Service":
            assert spec["selector"] == labels[document["metadata"]["name"]]
        elif kind == "ScaledObject":
            assert spec["scaleTargetRef"]["name"] in labels
    workers = {each.origin.removeprefix("kubernetes: ") for each in WORKERS}
    assert set(budgets) == workers & labels.keys()


def test_kustomize_has_every_manifest_but_those_that_are_applied_by_hand() -> None:
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    by_hand = {"kustomization.yaml", "keda.yaml", "migrate.yaml"}
    assert set(listed) == {path.name for path in MANIFESTS.iterdir()} - by_hand


def test_keda_scales_a_group_by_the_jobs_of_its_own_queues() -> None:
    for name, document in manifests():
        if name != "keda.yaml":
            continue
        target = document["spec"]["scaleTargetRef"]["name"]
        launch = next(each for each in WORKERS if each.origin == f"kubernetes: {target}")
        queries = [each["metadata"]["query"] for each in document["spec"]["triggers"]]
        for query in queries:
            # Each server of metrics reports the same queue: a sum would count it several times.
            assert "sum(max by (queue) (" in query
            assert set(re.findall(r'queue=~"([^"]*)"', query)[0].split("|")) == set(launch.queues)
        assert any("formrelay_queue_backlog_jobs" in query for query in queries)
        assert any('state="in_flight"' in query for query in queries)


def test_nothing_in_the_folder_is_a_secret() -> None:
    ignored = (DEPLOY / "secrets" / ".gitignore").read_text().split()
    assert any(fnmatch("redis-password", pattern) for pattern in ignored)
    assert not any(name.startswith("!") and "password" in name for name in ignored)
    assert procfile()  # has no variables
