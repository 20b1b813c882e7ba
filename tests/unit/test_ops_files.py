"""Files for Docker, Kubernetes, Prometheus and Grafana: their own tools accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from worker.contract.settings import Settings

OPS = ROOT / "ops"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
METRIC = re.compile(r"\b(?:wanwu|process)_[a-z_]+\b")


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


def accepted(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_s_schema_accepts_the_file() -> None:
    check, schema = tool("check-jsonschema"), "vendor.compose-spec"
    accepted(check, "--builtin-schema", schema, str(ROOT / "docker-compose.yml"))


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    accepted(tool("hadolint"), str(OPS / "Dockerfile"))


@pytest.mark.parametrize("name", ["worker", "flower"])
def test_kubernetes_accepts_what_is_its_own(name: str) -> None:
    accepted(tool("kubernetes-validate"), "--strict", str(OPS / "k8s" / f"{name}.yaml"))


def test_prometheus_accepts_its_configuration_and_the_alerts() -> None:
    promtool = tool("promtool")
    accepted(promtool, "check", "config", str(OPS / "prometheus" / "prometheus.yml"))
    accepted(promtool, "check", "rules", str(OPS / "prometheus" / "alerts.yml"))


def expressions() -> list[str]:
    """Whatever is asked of Prometheus, by alerts and by the dashboard."""
    rules = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    file = OPS / "grafana" / "dashboards" / "wanwu.json"
    board = json.loads(file.read_text(encoding="utf-8"))
    return asked + [one["expr"] for panel in board["panels"] for one in panel["targets"]]


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    source = "".join(
        (ROOT / file).read_text(encoding="utf-8")
        for file in ("worker/monitoring/prometheus.py", "producer/monitoring/prometheus.py")
    )
    asked = {name for one in expressions() for name in METRIC.findall(one)}
    assert len(asked) > 10
    for name in asked - {"process_resident_memory_bytes"}:
        family = re.sub(r"_(total|sum|count|bucket|info)$", "", name)
        assert f'"{name}"' in source or f'"{family}"' in source, name


def test_no_panel_lies_on_another() -> None:
    file = OPS / "grafana" / "dashboards" / "wanwu.json"
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & mine, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= mine


def test_services_of_ours_run_as_nobody_in_particular_and_write_nothing() -> None:
    dockerfile = (OPS / "Dockerfile").read_text(encoding="utf-8")
    for target in ("producer", "flower", "worker"):
        stage = dockerfile.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "USER 10001" in stage
    for name, service in SERVICES.items():
        if "build" in service:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name


def test_every_service_that_stays_has_a_health_check_and_is_restarted() -> None:
    dockerfile = (OPS / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r" AS (\S+)\n(.*?)(?=\nFROM |\Z)", dockerfile, re.DOTALL))
    stages["worker-cuda"] += stages["worker"]
    for name, service in SERVICES.items():
        if name == "producer":
            continue
        target = service.get("build", {}).get("target")
        assert "healthcheck" in service or "HEALTHCHECK" in stages[target], name
        assert service["restart"] == "unless-stopped", name


def test_no_port_is_open_to_others_and_no_password_has_a_default() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("${BIND:-127.0.0.1}:"), name
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for secret in ("REDIS_PASSWORD", "FLOWER_BASIC_AUTH", "GRAFANA_PASSWORD"):
        assert f"${{{secret}:?" in text
        assert f"${{{secret}:-" not in text
    assert "noeviction" in text
    assert "appendonly yes" in text


def test_every_setting_in_these_files_is_one_of_ours_and_every_variable_is_explained() -> None:
    known = {f"WANWU_{name.upper()}" for name in Settings.__struct_fields__}
    files = [ROOT / "docker-compose.yml", OPS / "Dockerfile", *(OPS / "k8s").glob("*.yaml")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert set(re.findall(r"WANWU_[A-Z_]+", text)) <= known
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", compose))
    assert asked <= set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))


def test_workers_are_scaled_by_a_figure_that_the_exporter_has() -> None:
    text = (OPS / "k8s" / "autoscale.yaml").read_text(encoding="utf-8")
    scaled, deployment, service = yaml.safe_load_all(text)
    (trigger,) = scaled["spec"]["triggers"]
    asked = trigger["metadata"]
    exported = (ROOT / "producer" / "monitoring" / "prometheus.py").read_text(encoding="utf-8")
    assert f'"{asked["valueLocation"]}"' in exported
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert asked["url"] == f"http://{name}:{port}/metrics"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "exporter"
    assert container["ports"][0]["containerPort"] == port
