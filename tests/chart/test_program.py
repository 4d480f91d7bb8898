"""What the chart renders is what the program takes: configuration, applications, resources, commands and ports."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from services.cluster import app
from services.cluster.__main__ import parser
from services.cluster.config import ClusterConfig
from services.cluster.launch import OBJECT_STORE_BYTES, rank_resources
from services.cluster.topology import CLUSTER_VARIABLE, FRONT_DOOR, cluster_environment, pool_resources, pools
from services.core.config import parse
from services.core.errors import ConfigError
from services.engine.tiny import save_tiny
from services.semcache.store import redis_client
from tests.chart.charts import ROOT, SETS, Render, render


@pytest.fixture(params=sorted(SETS))
def made(request: pytest.FixtureRequest) -> Render:
    """A render of one of ci/'s value sets."""
    return render(SETS[request.param])


def config_of(made: Render) -> ClusterConfig:
    """The configuration as the program reads it."""
    return parse(ClusterConfig, made.config)


def pinned(distribution: str) -> str:
    """Its version in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.partition("==")[2] for line in lines if line.partition("==")[0] == distribution)
    return version


def test_the_configuration_is_read_by_the_programs_loader(made: Render) -> None:
    config = config_of(made)
    assert config.many_hosts
    groups = {group.name: group.spec["replicas"] for group in made.workers}
    if groups:
        assert groups.pop("frontdoor") == config.frontdoor.replicas
        assert groups == {name: pool.replicas for name, pool in pools(config).items()}


def test_serve_accepts_both_applications_and_their_builders_are_there(made: Render) -> None:
    applications = ServeDeploySchema.model_validate(made.serve).applications
    assert [application.name for application in applications] == [app.CONTROL_APPLICATION, app.APPLICATION]
    assert str(made.serve["proxy_location"]) == "Disabled"
    for application in applications:
        module, _, builder = application.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), builder))
        assert application.route_prefix is None
        assert parse(ClusterConfig, application.args["config"]) == config_of(made)
        assert application.args["cluster_id"] == made.config["cluster"]["name"]
    assert made.serve == app.serve_config(made.config, made.config["cluster"]["name"])


def test_worker_groups_have_the_resources_that_actors_ask_for(made: Render) -> None:
    config = config_of(made)
    for group in made.workers:
        asked = {name: str(units) for name, units in app.FRONT_DOOR_OPTIONS["resources"].items()}
        if group.name != FRONT_DOOR:
            pool = pools(config)[group.name]
            asked = {name: str(units * pool.tp) for name, units in rank_resources(group.name).items()}
        assert group.spec["resources"] == asked, group.name
        assert group.spec["rayStartParams"]["num-cpus"] == str(app.FRONT_DOOR_OPTIONS["num_cpus"])


def test_the_node_of_triptych_up_has_the_same_resources() -> None:
    """For every pool and for front doors, twice as many of which run while they are replaced."""
    config = config_of(render(SETS["gpu"]))
    there = pool_resources(config)
    for name, units in app.FRONT_DOOR_OPTIONS["resources"].items():
        assert there[name] >= 2 * config.frontdoor.replicas * units
    for name, pool in pools(config).items():
        assert all(
            there[resource] >= pool.replicas * pool.tp * units for resource, units in rank_resources(name).items()
        )


def test_the_head_has_no_cpus_and_the_controller_stands_there(made: Render) -> None:
    if made.cluster:
        assert made.cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert app.CONTROLLER_OPTIONS["num_cpus"] == 0
        assert list(app.CONTROLLER_OPTIONS["resources"]) == ["node:__internal_head__"]


def test_rays_version_and_object_store_are_the_programs(made: Render) -> None:
    if made.cluster:
        assert made.cluster["rayVersion"] == pinned("ray")
        for start in (made.cluster["headGroupSpec"], *made.cluster["workerGroupSpecs"]):
            assert start["rayStartParams"]["object-store-memory"] == str(OBJECT_STORE_BYTES)


def test_the_environment_is_that_of_triptych_up(made: Render) -> None:
    for group in made.pods:
        for container in group.pod["containers"]:
            if "triptych" in container["image"]:
                found = {row["name"]: row.get("value") for row in container["env"]}
                expected = cluster_environment(made.config["cluster"]["name"])
                if "fetch" in container.get("command", ()):
                    expected["HF_HUB_OFFLINE"] = "0"
                assert found.items() >= expected.items(), group.name
                assert CLUSTER_VARIABLE in found


def test_commands_are_the_programs(made: Render) -> None:
    """Every command line of ours is parsed by the program's own parser; the others are entry points of Ray."""
    checked = 0
    for group in made.pods:
        containers = [*group.pod.get("initContainers", ()), *group.pod["containers"]]
        lines = [container["command"] + container.get("args", []) for container in containers if "command" in container]
        lines += [
            container["lifecycle"]["preStop"]["exec"]["command"] for container in containers if "lifecycle" in container
        ]
        for line in lines:
            if line[0] == "serve":
                assert line[1:3] == ["deploy", "--address"]
                continue
            assert line[:3] == ["python", "-m", "services.cluster"]
            parser().parse_args(line[3:])
            checked += 1
    assert checked


def test_mounted_files_are_where_the_configuration_says(made: Render) -> None:
    config = config_of(made)
    for group in made.workers:
        mounts = {mount["mountPath"] for mount in group.main["volumeMounts"]}
        assert {"/etc/triptych/config", config.state_folder, "/tmp", "/dev/shm"} <= mounts
        if config.model.path.startswith("/models/"):
            assert "/models" in mounts
        if group.name == FRONT_DOOR:
            tls, auth = config.frontdoor.tls, config.frontdoor.auth
            files = [
                file for file in (tls and tls.cert_file, tls and tls.key_file, auth.keys_file, auth.secret_file) if file
            ]
            assert all(file.rpartition("/")[0] in mounts for file in files)


def test_volumes_that_are_mounted_are_there(made: Render) -> None:
    for group in made.pods:
        there = {volume["name"] for volume in group.pod.get("volumes", ())}
        for container in (*group.pod.get("initContainers", ()), *group.pod["containers"]):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= there
        for volume in group.pod.get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in {found["metadata"]["name"] for found in made.of("ConfigMap")}


def test_the_password_of_redis_is_read_from_its_file(tmp_path: Path) -> None:
    config = config_of(render(SETS["external-redis"])).redis
    secret = tmp_path / "password"
    secret.write_text("s3cret\n", encoding="utf-8")
    client = redis_client(config.model_copy(update={"password_file": str(secret)}))()
    given = client.connection_pool.connection_kwargs
    assert (given["host"], given["port"], given["username"], given["password"]) == (
        "redis.data.svc",
        6380,
        "triptych",
        "s3cret",
    )
    with pytest.raises(ConfigError, match=r"redis\.password_file"):
        redis_client(config.model_copy(update={"password_file": str(tmp_path / "none")}))


def ports_of(made: Render) -> set[int]:
    """Every port that a process of a pod listens on, or the ends of its range."""
    config = config_of(made)
    ports = {config.frontdoor.grpc_port, config.frontdoor.http_port, *config.worker.store_ports}
    ports |= {*config.worker.peer_ports, *(config.telemetry.metrics_ports or ())}
    assert made.cluster
    for start in (made.cluster["headGroupSpec"], *made.cluster["workerGroupSpecs"]):
        ports |= {int(value) for name, value in start["rayStartParams"].items() if name.endswith("port")}
    return ports


@pytest.mark.parametrize("name", [name for name in SETS if SETS[name].get("networkPolicy")])
def test_network_policies_open_every_port_that_is_listened_on(name: str) -> None:
    made = render(SETS[name])
    opened: list[tuple[int, int]] = []
    for policy in made.of("NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            opened += [(port["port"], port.get("endPort", port["port"])) for port in rule["ports"]]
    for port in ports_of(made):
        assert any(low <= port <= high for low, high in opened), port
    # KV links choose their own port: the system's range is set for every pod, and is open.
    for group in (*made.workers,):
        (sysctl,) = group.pod["securityContext"]["sysctls"]
        low, high = map(int, sysctl["value"].split())
        assert sysctl["name"] == "net.ipv4.ip_local_port_range"
        assert (low, high) in opened


def test_an_empty_list_lets_nobody_in() -> None:
    """`from: []` would let everybody in."""
    policies = render({"networkPolicy": {"enabled": True, "operator": [], "prometheus": []}}).of("NetworkPolicy")
    assert {policy["metadata"]["name"] for policy in policies} == {"demo-triptych", "demo-triptych-frontdoor"}
    for policy in policies:
        for rule in policy["spec"]["ingress"]:
            if "from" in rule:
                assert rule["from"]
            else:  # clients: everybody, to the front doors' two ports
                assert [port["port"] for port in rule["ports"]] == [50051, 8000]


def test_ranges_hold_what_one_pod_needs() -> None:
    """One worker a pod: a store for its links, one for its ranks, and successors while the old port lingers."""
    config = config_of(render({}))
    for low, high in (config.worker.store_ports, config.worker.peer_ports):
        assert high - low >= 4


def test_bad_arguments_of_an_application_are_told() -> None:
    with pytest.raises(ConfigError, match=r"config\.pools\.decode\.replica\b.*replicas"):
        app.front_doors({"config": {"pools": {"decode": {"replica": 2}}}})


def test_an_application_is_built_from_the_chart(tmp_path: Any) -> None:
    """As Serve builds it: the deployments' own options, and the configuration as the replicas get it."""
    config = {**render({}).config, "state_folder": str(tmp_path)}
    small = tmp_path / "model"
    config["model"] = {"path": str(small)}
    save_tiny(small)
    args = json.loads(json.dumps({"config": config, "cluster_id": "demo"}))
    front = app.front_doors(args)
    options = front._bound_deployment
    assert options.num_replicas == 2
    assert options.ray_actor_options["resources"] == {"frontdoor": 1}
    assert options._deployment_config.graceful_shutdown_timeout_s == 45 + app.DRAIN_SLACK_S
    assert options.init_args[1:] == ("demo", str(small))
    assert app.control(args)._bound_deployment.name == app.CONTROLLER
