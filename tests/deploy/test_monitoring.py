"""The dashboard of Grafana and the rules of Prometheus fit the metrics that workers serve."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import yaml

from formrelay.brokers.redis.broker import RedisBroker
from formrelay.ops.metrics import names
from formrelay.ops.monitor.findings import ABOUT
from tests.support.command import clean_environment, start_python
from tests.support.deploy import DEPLOY, MANIFESTS, manifests
from tests.support.missing import skip_or_fail
from tests.support.servers import PrometheusServer
from tests.support.servers.base import free_port
from tests.support.waiting import wait_until

RULES = DEPLOY / "prometheus" / "rules.yaml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "formrelay.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
TRIGGERS = [
    trigger["metadata"]["query"]
    for name, document in manifests()
    if name == "keda.yaml"
    for trigger in document["spec"]["triggers"]
]
#: Redis counts delayed jobs by queue instead.
ONLY_ON_RABBITMQ = {"formrelay_scheduled_jobs"}


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"formrelay_\w+", query))


# ---- Against the names of the metrics ---------------------------------------------------------


def series() -> dict[str, set[str]]:
    """The labels of each series, by its name."""
    found = {}
    for metric in names.ALL:
        if metric.kind == "histogram":
            found[f"{metric.full_name}_bucket"] = {*metric.labels, "le"}
            found |= {f"{metric.full_name}_{end}": set(metric.labels) for end in ("sum", "count")}
        else:
            found[metric.full_name] = set(metric.labels)
    return found


@pytest.mark.parametrize(
    "query", [*QUERIES.values(), *(each["expr"] for each in ALERTS), *TRIGGERS]
)
def test_a_query_names_series_and_labels_that_exist(query: str) -> None:
    known = series()
    assert metrics_in(query)
    for name, matchers in re.findall(r"(formrelay_\w+)(?:\{([^}]*)\})?", query):
        assert name in known
        labels = set(re.findall(r"(\w+)=", matchers))
        assert labels <= known[name] | {"job", "instance"}, name
        if name.startswith("formrelay_queue_"):
            # Every machine reports the same queue: a sum would count it several times.
            assert re.search(
                rf"max(_over_time)?( by \([^)]*\))? \((min_over_time\()?{name}", query
            ) or (f"max({name}" in query), query


def test_the_dashboard_shows_every_metric() -> None:
    shown = set().union(*(metrics_in(query) for query in QUERIES.values()))
    missing = [
        metric.full_name
        for metric in names.ALL
        if not any(name.startswith(metric.full_name) for name in shown)
    ]
    assert missing == []


# ---- The dashboard ----------------------------------------------------------------------------


def test_every_panel_says_what_it_shows() -> None:
    for panel in PANELS:
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    places = DASHBOARD["panels"]
    assert len({panel["id"] for panel in places}) == len(places)
    for one, other in combinations([panel["gridPos"] for panel in places], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in places)
    rows = [panel["title"] for panel in places if panel["type"] == "row"]
    assert rows == ["Overview", "Queues", "Actors", "Sinks", "Workers"]


def test_every_variable_is_used() -> None:
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "queue"}
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(\w+)", text)) == {*variables, "__rate_interval", "__all"}


# ---- The rules --------------------------------------------------------------------------------


def promtool(*words: object) -> str:
    program = shutil.which("promtool")
    if program is None:
        skip_or_fail("promtool is missing: apt-get install prometheus")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_pass_their_tests() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)
    promtool("test", "rules", RULES.with_name("rules_test.yaml"))


def test_every_rule_is_tested_when_it_fires_and_when_it_does_not() -> None:
    tests = yaml.safe_load(RULES.with_name("rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    everything = {rule["alert"] for rule in ALERTS}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == everything
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == everything


def test_the_configuration_of_prometheus_is_valid(tmp_path: Path) -> None:
    config = yaml.safe_load(RULES.with_name("prometheus.yaml").read_text())
    kubernetes = [job for job in config["scrape_configs"] if "kubernetes_sd_configs" in job]
    for job in kubernetes:  # Debian's Prometheus cannot ask Kubernetes
        del job["kubernetes_sd_configs"]
        (job["static_configs"],) = ([{"targets": ["worker:9464"]}],)
    config["rule_files"] = [str(RULES)]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "prometheus.yaml")
    assert kubernetes
    assert MANIFESTS.exists()


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_where_to_read(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    text = (DEPLOY.parent / path).read_text()
    headings = [
        re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)", text, re.M)
    ]
    assert not anchor or anchor in [heading.replace(" ", "-") for heading in headings]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_document_compares_the_rules_with_those_of_the_monitor() -> None:
    text = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    compared = set(re.findall(r"`(\w+)`", text))
    assert {rule["alert"] for rule in ALERTS} | ABOUT.keys() <= compared


# ---- Against Prometheus and a worker ----------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(
    redis_url_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    """A Prometheus that scrapes a worker with busy actors."""
    if not PrometheusServer.program():
        skip_or_fail("prometheus is missing: apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("worker"), free_port()
    env = clean_environment(
        REDIS_URL=redis_url_of_module,
        PYTHONPATH=str(Path(__file__).parent),
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        WORKER_HTTP_PORT=str(port),
        WORKER_HTTP_DIR=str(folder / "http"),
    )
    queues = ("chores", "letters", "webhooks")
    words = ("-m", "formrelay", "worker", *queues, "--import", "busy_actors")
    log = folder / "log"
    worker = start_python(*words, cwd=folder, env=env, log=log, may_exec=True)
    try:
        with PrometheusServer({"formrelay": [f"127.0.0.1:{port}"]}, [RULES]) as server:
            yield server
    finally:
        worker.terminate()
        worker.wait(60)


def send(broker: RedisBroker) -> None:
    """Send jobs that have every outcome."""
    webhook = {"url": f"http://127.0.0.1:{free_port()}/", "body": {}, "secret": "s" * 24}
    call = {"payload": webhook, "metadata": {}}
    for queue, actor, kwargs in (
        *(("chores", name, {}) for name in ("work", "fail", "later")),
        *(("letters", "post", {"letters": "one"}) for _ in range(3)),
        ("webhooks", "deliver_webhook", call),
    ):
        broker.enqueue(dramatiq.Message(queue, actor, (), kwargs, {}))
    broker.enqueue(dramatiq.Message("chores", "work", (), {}, {}), delay=10)


def filled(query: str) -> str:
    """The query with the variables of Grafana replaced."""
    values = {"$__rate_interval": "1m", "$job": "formrelay", "$queue": ".*"}
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_every_query_returns_data_of_a_worker(
    prometheus: PrometheusServer, redis_url_of_module: str
) -> None:
    broker = RedisBroker(redis_url_of_module)
    for queue in ("chores", "letters", "webhooks"):
        broker.declare_queue(queue)
    left = {
        name: filled(query)
        for name, query in QUERIES.items()
        if not metrics_in(query) & ONLY_ON_RABBITMQ
    }
    left |= {f"KEDA {number}": query for number, query in enumerate(TRIGGERS)}

    def everything_has_data() -> bool:
        send(broker)  # a rate needs a change between two scrapes
        for name, query in list(left.items()):
            if prometheus.ask("query", query=query)["result"]:
                del left[name]
        return not left

    try:
        wait_until(everything_has_data, every=1)
    except AssertionError:
        pytest.fail(f"no data: {left}")
    finally:
        broker.close()


def test_the_variables_of_the_dashboard_find_values(prometheus: PrometheusServer) -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert found
        result = prometheus.ask("query", query=filled(found[1]))["result"]
        assert {each["metric"][found[2]] for each in result} >= (
            {"formrelay"} if variable["name"] == "job" else {"chores", "letters", "webhooks"}
        )


def test_prometheus_evaluates_every_rule(prometheus: PrometheusServer) -> None:
    def rules() -> list[dict[str, Any]]:
        (group,) = prometheus.ask("rules")["groups"]
        return list(group["rules"])

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [rule["lastError"] for rule in rules() if rule.get("lastError")] == []
    assert len(rules()) == len(ALERTS)
