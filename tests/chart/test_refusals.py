"""Wrong values are refused with the value's path and the fix, by the schema or by the templates."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from tests.chart.charts import merged, nested, render

EXTERNAL: dict[str, Any] = {
    "ray": {"mode": "external", "external": {"dashboardAddress": "http://ray:8265"}},
    "model": {"source": "path", "path": "/srv/model"},
}
DOWNLOAD: dict[str, Any] = {"model": {"source": "claim", "path": "m", "download": {"enabled": True}}}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("imge.tag", "1", "'imge' not allowed"),
        ("image.tagg", "1", "'tagg' not allowed"),
        ("image.digest", "sha256:abc", "/image/digest"),
        ("config.pools.decode.replica", 2, "'replica' not allowed"),
        ("config.pools.decode.replicas", 2, "'replicas' not allowed"),
        ("config.frontdoor.http_port", 80, "'http_port' not allowed"),
        ("config.frontdoor.tls", {}, "'tls' not allowed"),
        ("config.cache.block_size_tokens", "many", "/config/cache/block_size_tokens"),
        ("config.model.dtype", "int3", "float16"),
        ("config.model.path", "/x", "'path' not allowed"),
        ("roles.decod.replicas", 2, "'decod' not allowed"),
        ("roles.decode.replica", 2, "'replica' not allowed"),
        ("roles.decode.replicas", "two", "/roles/decode/replicas"),
        ("roles.decode.drain.marginSeconds", 5, "/roles/decode/drain/marginSeconds"),
        ("roles.prefill.drain.second", 5, "'second' not allowed"),
        ("ray.mode", "rayservice", "/ray/mode"),
        ("ports.grpc", 70000, "/ports/grpc"),
        ("ports.peers.minimum", 70000, "'minimum' not allowed"),
        ("redis.mode", "cluster", "/redis/mode"),
        ("model.download.revision", "main", "/model/download/revision"),
        ("gang.scheduler", "slurm", "/gang/scheduler"),
        ("networkPolicy.egres", {}, "'egres' not allowed"),
        ("metrics.serviceMonitor.labels.x", 1, "/metrics/serviceMonitor/labels/x"),
    ],
)
def test_the_schema_refuses(path: str, value: Any, message: str) -> None:
    with pytest.raises(helm_python.HelmError) as error:
        render(nested(path, value))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("base", "path", "value", "message"),
    [
        ({}, "roles.decode.enabled", False, "roles.decode.enabled is false: nothing can be served without it"),
        ({}, "roles.prefill.replicas", 0, "roles.prefill.replicas is 0: write 1 or more"),
        ({}, "roles.decode.minReplicas", 3, "roles.decode.replicas is 1, outside minReplicas 3 and maxReplicas 1"),
        ({}, "roles.frontdoor.replicas", 17, "roles.frontdoor.replicas is 17: write 16 or less"),
        (
            {},
            "roles.decode.drain.gracePeriodSeconds",
            60,
            "roles.decode.drain.gracePeriodSeconds is 60: preStopSeconds, seconds and marginSeconds are 320 together",
        ),
        ({}, "model.source", "path", 'model.path is empty: with model.source "path" it names'),
        ({"model": {"source": "claim"}}, "model.path", "/m", "leave out the first /"),
        ({}, "model.download.enabled", True, 'model.download.enabled needs model.source "claim", not "bundled"'),
        (DOWNLOAD, "model.download.repository", "a/b", "model.download.enabled needs repository and revision"),
        ({}, "ray.mode", "external", "ray.external.dashboardAddress is empty"),
        (EXTERNAL, "model", {"source": "bundled", "path": ""}, 'with ray.mode "external" the chart prepares no hosts'),
        (EXTERNAL, "ingress", {"enabled": True, "host": "h"}, "ingress.enabled needs ray.external.frontdoorLabels"),
        ({}, "ray.gcsFaultTolerance.enabled", True, "ray.gcsFaultTolerance.enabled needs redis.mode"),
        ({}, "redis.mode", "external", "redis.external.host is empty"),
        ({}, "tls.enabled", True, "tls.enabled needs one of tls.existingSecret and tls.certManager.enabled"),
        (
            {"tls": {"enabled": True, "existingSecret": "s"}},
            "tls.certManager.enabled",
            True,
            "tls.enabled needs one of tls.existingSecret and tls.certManager.enabled",
        ),
        (
            {"tls": {"enabled": True}},
            "tls.certManager.enabled",
            True,
            "tls.certManager.issuerRef is empty: name the issuer",
        ),
        ({}, "ingress.enabled", True, "ingress.host is empty"),
        ({}, "httpRoute.enabled", True, "httpRoute.parentRefs is empty"),
        ({}, "grpcRoute.enabled", True, "grpcRoute.parentRefs is empty"),
        ({}, "rbac.create", True, "rbac.subjects is empty: name who may scale"),
        ({}, "gang.scheduler", "volcano", 'gang.queue is empty: name the queue of gang.scheduler "volcano"'),
        ({}, "ports.http", 50051, "ports.grpc and ports.http overlap; a port has one use"),
        ({}, "ports.ray.workers", {"min": 9400, "max": 9500}, "overlap; a port has one use"),
        ({}, "ports.peers", {"min": 9449, "max": 9440}, "ports.peers: min 9449 is above max 9440"),
    ],
)
def test_the_templates_refuse(base: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(helm_python.HelmError) as error:
        render(merged(base, nested(path, value)))
    assert message in str(error.value)


@pytest.mark.parametrize("role", ["encode", "draft"])
def test_a_role_that_the_program_does_not_have_cannot_be_enabled(role: str) -> None:
    from services.cluster.topology import LAUNCHED

    values = nested(f"roles.{role}.enabled", True)
    if role in LAUNCHED:
        assert role in render(values).config["pools"]
    else:
        with pytest.raises(helm_python.HelmError, match=f"/roles/{role}/enabled"):
            render(values)
