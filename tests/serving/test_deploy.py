"""What is deployed fits what is built: metric names, paths, ports, commands, settings."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from serving.audit import AuditWriter
from serving.daemon import DRAIN_S
from serving.health import REQUEST_S, HealthServer
from serving.manifest import Manifest
from serving.metrics import Metrics
from serving.router import load_settings, open_router
from tests.network.certificates import Authority
from tests.serving.watched import WAIT_S, DoublingPolicy, Robot, start_daemon

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
METRIC = re.compile(r"cuebook_serving_\w+")
KUBERNETES = "1.31"
HEALTH_PORT = Manifest.model_fields["health_port"].default
DRAIN_DEFAULT_S = Manifest.model_fields["drain_timeout_s"].default


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, set[str]]:
    """Labels by sample name, from /metrics of a daemon that has served."""
    import urllib.request

    metrics, audit = Metrics(), AuditWriter(tmp_path_factory.mktemp("audit") / "audit.jsonl")
    metrics.watch_log("audit", audit)
    daemon, hub = start_daemon(DoublingPolicy(), metrics.note, audit.note)
    health = HealthServer(daemon, metrics, port=0)
    health.start()
    try:
        robot = Robot(hub, "ann")
        robot.open()
        robot.chunk()
        page = urllib.request.urlopen(f"http://127.0.0.1:{health.port}/metrics", timeout=WAIT_S).read().decode()
    finally:
        health.stop()
        daemon.stop()
        audit.close()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check_expression(expression: str, shown: dict[str, set[str]]) -> None:
    """PromQL, over metrics and labels that are really there."""
    import promql_parser

    promql_parser.parse(expression.replace("$__rate_interval", "1m").replace("$instance", ".*"))
    names = METRIC.findall(expression)
    assert names, expression
    known = {"instance", "le"}.union(*(shown.get(name, set()) for name in names))
    for name in names:
        assert name in shown, f"{name} in {expression}"
    asked = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    asked |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
    assert asked <= known, f"{asked - known} in {expression}"


# --- Grafana and Prometheus -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads((DEPLOY / "grafana/cuebook-serving.json").read_text())


def test_the_dashboard_is_made_from_its_program():
    made = runpy.run_path(str(DEPLOY / "grafana/make_dashboard.py"))["text"]()
    assert (DEPLOY / "grafana/cuebook-serving.json").read_text() == made, "run python deploy/grafana/make_dashboard.py"


def test_every_panel_asks_for_what_a_running_daemon_shows(dashboard, shown):
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 20
    for target in targets:
        check_expression(target["expr"], shown)
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert label == "instance" or label in shown[METRIC.findall(target["expr"])[0]], target
    (variable,) = [v for v in dashboard["templating"]["list"] if v["name"] == "instance"]
    assert METRIC.search(variable["query"]["query"])[0] in shown


def test_the_dashboard_has_its_rows_and_nothing_overlaps(dashboard):
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Policy and GPU", "Sessions", "Drops", "Process"]
    latency = {panel["title"] for panel in dashboard["panels"]}
    assert {"Whole request", "Stages, p50", "Stages, p95", "Stages, p99"} <= latency
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for a, b in combinations((panel["gridPos"] for panel in dashboard["panels"]), 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (a, b)


def test_alerts_ask_for_what_a_running_daemon_shows(shown):
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    page = (REPO / "docs/observability.md").read_text()
    for rule in group["rules"]:
        check_expression(rule["expr"], shown)
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["runbook"]
        assert f"`{rule['alert']}`" in page, f"{rule['alert']} is missing in the runbook"
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label == "instance" or label in shown[METRIC.findall(rule["expr"])[0]]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)


def test_alerts_name_codes_that_exist():
    from serving.metrics import DROP_REASONS, EVENTS, REJECTS, STAGES

    known = {"code": {*EVENTS, *REJECTS}, "reason": set(DROP_REASONS), "stage": set(STAGES)}
    for label, values in re.findall(r'(\w+)=~?"([\w|]+)"', (DEPLOY / "prometheus/alerts.yaml").read_text()):
        assert set(values.split("|")) <= known[label], (label, values)


# --- commands -------------------------------------------------------------------------------------


def check_command(words: list[str]) -> None:
    """A command line of ours: the program is installed, the subcommand is there, settings are fields."""
    from serving.cli import app

    assert Path(words[0]).name in PROJECT["scripts"], f"no command {words[0]}"
    assert words[1] in get_command(app).commands, f"no subcommand {words[1]}"


def test_commands_in_all_files_exist():
    units = [p.read_text() for p in sorted((DEPLOY / "systemd").glob("*.service"))]
    lines = [shlex.split(re.search(r"^ExecStart=(.*)", unit, re.MULTILINE)[1]) for unit in units]
    lines += [[*container["command"], *container["args"]] for container in containers()]
    lines += [
        json.loads(entry) + json.loads(command)
        for entry, command in re.findall(r"^ENTRYPOINT (.*)\nCMD (.*)", dockerfile(), re.MULTILINE)
    ]
    assert len(lines) == 6
    for words in lines:
        check_command(words)


# --- Docker ---------------------------------------------------------------------------------------


def dockerfile() -> str:
    return (DEPLOY / "docker/Dockerfile").read_text()


def stage(name: str) -> str:
    """The instructions of one build stage, its continued lines joined."""
    stages = re.split(r"^(?=FROM )", dockerfile().replace("\\\n", " "), flags=re.MULTILINE)
    (found,) = [text for text in stages if re.match(rf"FROM \S+ AS {name}\b", text)]
    return found


def test_the_image_runs_as_nobody_and_reports_readiness():
    serving = stage("serving")
    assert dockerfile().rstrip().endswith(serving.replace("\\\n", " ").rstrip().splitlines()[-1])  # the default target
    for name in ("serving", "router"):
        assert int(re.search(r"^USER (\d+):\d+$", stage(name), re.MULTILINE)[1]) > 0
        assert "STOPSIGNAL SIGTERM" in stage(name)
    url = re.search(r"HEALTHCHECK.*(http://\S+)\"", serving)[1]
    assert url == f"http://127.0.0.1:{HEALTH_PORT}/readyz"
    assert f"EXPOSE {HEALTH_PORT}\n" in serving
    assert "EXPOSE 7447\n" in stage("router")
    assert "curl" in re.search(r"apt-get install .*", serving)[0]


def test_what_the_image_copies_is_there_and_not_ignored():
    ignored = [
        line
        for line in (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    packages = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*packages["packages"], PROJECT["readme"], "pyproject.toml", "LICENSE"}
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(), re.MULTILINE):
        needed |= set(sources.split())
    needed |= set(re.findall(r"--constraint (deploy/\S+)", dockerfile()))
    for source in needed - {"."}:
        assert (REPO / source).exists(), source
        assert source.split("/")[0] not in ignored, source
    copied = {"serving": stage("serving"), "build": stage("build")}
    for path in re.findall(r"^COPY --from=build (\S+)", copied["serving"], re.MULTILINE):
        assert path in copied["build"], path


def test_versions_in_the_image_are_fixed_and_fit_the_project():
    fixed = {}
    for line in (DEPLOY / "docker/constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        (version,) = requirement.specifier
        assert version.operator == "==" and not requirement.url
        fixed[canonicalize_name(requirement.name)] = version.version
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["serving"], *extras["replay"], *extras["record"], *extras["lerobot"]]
    for line in wanted:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            assert requirement.extras <= {"replay", "record"}  # which are among those wanted
            continue
        assert requirement.specifier.contains(fixed[canonicalize_name(requirement.name)]), line
    default = re.search(r'^ARG EXTRAS="(.*)"', dockerfile(), re.MULTILINE)[1]
    assert set(default.split()) <= set(PROJECT["optional-dependencies"])


# --- systemd --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda p: p.name)
def test_units_are_understood_by_systemd(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert done.returncode == 0 and not said, done.stderr


def test_the_unit_waits_for_the_drain_and_gives_up_on_a_wrong_manifest():
    from serving.console import USAGE

    unit = (DEPLOY / "systemd/cuebook-serving.service").read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > 2 * DRAIN_DEFAULT_S
    assert "KillSignal=SIGTERM" in unit
    assert f"RestartPreventExitStatus={USAGE}" in unit


# --- Kubernetes -----------------------------------------------------------------------------------


def objects(kind: str = "") -> list[dict]:
    found = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found += [thing for thing in yaml.safe_load_all(path.read_text()) if kind in ("", thing["kind"])]
    return found


def containers() -> list[dict]:
    return [c for deployment in objects("Deployment") for c in deployment["spec"]["template"]["spec"]["containers"]]


def deployment(name: str) -> dict:
    return next(d for d in objects("Deployment") if d["metadata"]["name"] == name)


def config(name: str) -> str:
    (text,) = next(c for c in objects("ConfigMap") if c["metadata"]["name"] == name)["data"].values()
    return text


def test_kubernetes_takes_every_object():
    import kubernetes_validate

    assert len(objects()) >= 6
    for thing in objects():
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
        assert "apiVersion" in thing and thing["metadata"]["name"]


def test_the_deployed_manifest_is_one_and_its_port_is_probed():
    manifest = Manifest.model_validate(yaml.safe_load(config("cuebook-serving-manifest")))
    pod = deployment("cuebook-serving")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["health"] == manifest.health_port == HEALTH_PORT
    assert manifest.health_host == "0.0.0.0"  # the kubelet comes from outside
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: probe["path"] for kind, probe in paths.items()} == {
        "startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz",
    }  # fmt: skip
    assert all(probe["port"] in ports for probe in paths.values())
    assert all(container[f"{kind}Probe"]["timeoutSeconds"] >= REQUEST_S for kind in ("readiness", "liveness"))
    scraped = pod["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(manifest.health_port) and scraped["prometheus.io/path"] == "/metrics"


def test_pods_may_drain_before_they_are_killed():
    manifest = Manifest.model_validate(yaml.safe_load(config("cuebook-serving-manifest")))
    spec = deployment("cuebook-serving")["spec"]
    grace_s = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    # stop() waits for the drain, then as long again for the threads
    assert grace_s >= max(20, 2 * manifest.drain_timeout_s + 5, 2 * DRAIN_S + 5)
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (budget,) = objects("PodDisruptionBudget")
    assert budget["spec"]["selector"] == spec["selector"] and 0 < budget["spec"]["minAvailable"] < spec["replicas"]


@pytest.mark.parametrize("name", ["cuebook-serving", "cuebook-router"])
def test_pods_are_found_and_find_their_files(name):
    spec = deployment(name)["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    maps = {c["metadata"]["name"]: c["data"] for c in objects("ConfigMap")}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            mount = next(m for m in container["volumeMounts"] if m["name"] == volume["name"])
            assert mount["subPath"] in maps[volume["configMap"]["name"]]
            assert container["args"] == [mount["mountPath"]]
    text = config(name if name == "cuebook-router" else f"{name}-manifest")
    for path in re.findall(r"/etc/cuebook/\S+\.pem", text):
        assert str(Path(path).parent) in mounted, path
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in dockerfile()


def test_the_deployed_router_opens_with_its_certificates(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("router")
    text = config("cuebook-router").replace("/etc/cuebook/tls", str(tmp_path)).replace("0.0.0.0:7447", "127.0.0.1:0")
    (tmp_path / "router.yaml").write_text(text)
    settings = load_settings(tmp_path / "router.yaml")
    assert {settings.tls_listen_certificate, settings.tls_listen_private_key} == {certificate, key}
    with open_router(settings):
        pass
    served = Manifest.model_validate(yaml.safe_load(config("cuebook-serving-manifest")))
    (service,) = objects("Service")
    (port,) = service["spec"]["ports"]
    assert served.zenoh.connect_endpoints == [f"tls/{service['metadata']['name']}:{port['port']}"]
    (container,) = deployment("cuebook-router")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": port["targetPort"], "containerPort": 7447}]
    assert "tls/0.0.0.0:7447" in config("cuebook-router")
