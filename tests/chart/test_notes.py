"""What `helm install` says at its end: addresses that exist, and a warning for each unsafe setting."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.charts import SETS, merged, render

SAFE: dict[str, Any] = merged(
    SETS["tls"], {"redis": {"mode": "none"}, "ray": {"gcsFaultTolerance": {"enabled": False}}}
)


def notes(values: dict[str, Any]) -> str:
    """The text."""
    return render(values).files["NOTES.txt"]


def test_addresses_are_those_of_the_services() -> None:
    text = notes({})
    assert "demo-triptych.serving.svc:50051" in text
    assert "http://demo-triptych.serving.svc:8000/v1" in text
    assert '"model": "smollm2-135m-instruct"' in text
    assert "rayservices.ray.io" in text
    assert "https://demo-triptych.serving.svc:8000/v1" in notes(SETS["tls"])
    assert "rayclusters.ray.io" in notes(SETS["external-redis"])


def test_the_model_is_named_as_clients_name_it() -> None:
    assert '"model": "qwen3-0.6b"' in notes(SETS["cpu"])
    assert '"model": "llama-3.1-8b-instruct"' in notes(SETS["gpu"])


def test_nothing_is_said_of_services_that_are_not_made() -> None:
    own = {name: value for name, value in SETS["byo-ray"]["ray"]["external"].items() if name != "frontdoorLabels"}
    assert ".svc:" not in notes({**SETS["byo-ray"], "ray": {**SETS["byo-ray"]["ray"], "external": own}})


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"auth": {"existingSecret": ""}}, "WARNING: auth.existingSecret is empty"),
        ({"tls": {"enabled": False}}, "WARNING: API keys travel in plain text"),
        ({"networkPolicy": {"enabled": False}}, "WARNING: networkPolicy.enabled is false"),
        ({"ray": {"auth": {"mode": "disabled"}}}, "WARNING: ray.auth.mode is disabled"),
        ({"redis": {"mode": "dev"}}, "WARNING: redis.mode is dev"),
        ({"tls": {"certManager": {"enabled": True}}}, "WARNING: these values need cert-manager's CRDs"),
        ({"metrics": {"podMonitor": {"enabled": True}}}, "WARNING: these values need the Prometheus operator's CRDs"),
        (
            {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "WARNING: these values need the Gateway API's",
        ),
    ],
)
def test_unsafe_settings_are_warned_of(change: dict[str, Any], warning: str) -> None:
    safe = merged(
        SAFE,
        {
            "tls": {"existingSecret": "s", "certManager": {"enabled": False}},
            "metrics": {"serviceMonitor": {"enabled": False}},
        },
    )
    assert "WARNING" not in notes(safe)
    if "certManager" in change.get("tls", {}):
        safe = merged(safe, {"tls": {"existingSecret": ""}})
    assert warning in notes(merged(safe, change))
