"""The files of deploy/ that need no cluster to be wrong: configurations, and a Ray cluster without Kubernetes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from services.cli.settings import load_config
from services.cluster.__main__ import main, parser
from services.cluster.launch import OBJECT_STORE_BYTES
from services.cluster.topology import cluster_environment
from tests.chart.charts import ROOT, SETS, render

CONFIGS = sorted((ROOT / "deploy" / "config").glob("*.yaml"))
RAY_CLUSTER = ROOT / "deploy" / "ray" / "cluster.yaml"


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configurations_are_read_by_the_programs_loader(file: Path) -> None:
    config = load_config(file)
    assert file.read_text(encoding="utf-8").startswith("# ")
    assert config.many_hosts == file.stem.endswith("-cluster")
    if config.many_hosts:
        assert config.frontdoor.host == config.worker.host
        assert not config.worker.lend_cores


@pytest.mark.parametrize(
    "file", [file for file in CONFIGS if file.stem.endswith("-cluster")], ids=lambda file: file.stem
)
def test_configurations_of_clusters_become_serves(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(file)]) == 0
    written = yaml.safe_load(capsys.readouterr().out)
    applications = ServeDeploySchema.model_validate(written).applications
    assert [application.args["config"] for application in applications] == 2 * [yaml.safe_load(file.read_text())]


def test_a_configuration_of_one_host_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(CONFIGS[CONFIGS.index(ROOT / "deploy" / "config" / "laptop.yaml")])]) == 2
    assert "worker.host" in (said := capsys.readouterr().err)
    assert "ray-node" in said


def test_clusters_of_deploy_use_the_charts_ports() -> None:
    chart = render(SETS["cpu"]).config
    for file in CONFIGS:
        if file.stem.endswith("-cluster"):
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            assert config["worker"] == chart["worker"]
            assert config["state_folder"] == chart["state_folder"]
            assert config["telemetry"]["metrics_ports"][0] == chart["telemetry"]["metrics_ports"][0]


def test_the_ray_cluster_is_valid_and_starts_nodes_as_the_program_does() -> None:
    cluster = yaml.safe_load(RAY_CLUSTER.read_text(encoding="utf-8"))
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        start = commands[-1]
        environment = dict(re.findall(r"(\w+)=(\S+)", start.partition("ray start")[0]))
        expected = cluster_environment(cluster["cluster_name"])
        assert environment.items() >= {name: expected[name] for name in environment if name in expected}.items()
        assert environment["RAY_worker_niceness"] == "0"
        assert f"--object-store-memory={OBJECT_STORE_BYTES}" in start
        assert "--num-cpus=0" in start


def test_commands_of_the_ray_cluster_are_the_programs() -> None:
    lines = re.findall(r"python -m services\.cluster (.*?)(?: >| &&|$)", RAY_CLUSTER.read_text(encoding="utf-8"), re.M)
    assert len(lines) == 3
    for line in lines:
        parser().parse_args(line.split())
