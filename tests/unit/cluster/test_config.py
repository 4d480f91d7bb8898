"""The example configuration is the default, and bad keys are told with their place and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.settings import load_config
from services.cluster.config import ClusterConfig
from services.core.errors import ConfigError

LAPTOP = Path(__file__).parents[3] / "deploy" / "config" / "laptop.yaml"


def test_the_example_holds_every_default() -> None:
    assert load_config(LAPTOP) == ClusterConfig()


def test_set_wins_over_the_file() -> None:
    config = load_config(LAPTOP, ["pools.decode.replicas=3", "model.dtype=float32"])
    assert config.pools.decode.replicas == 3
    assert config.model.dtype == "float32"


@pytest.mark.parametrize(
    ("assignment", "path", "hint"),
    [
        ("pools.decode.replica=2", "pools.decode.replica", "replicas"),
        ("frontdoor.grpc_port=70000", "frontdoor.grpc_port", "65535"),
        ("pools.decode.tp=17", "pools.decode.tp", "16"),
        ("testing.fault=token=1:kill", "testing", "testing.enabled"),
        ("model.dtype=int3", "model.dtype", "float16"),
        ("cache.memory_bytes=many", "cache.memory_bytes", "integer"),
    ],
)
def test_a_bad_value_names_its_path_and_the_fix(assignment: str, path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [assignment])
    assert error.value.path.startswith(path)
    assert hint in error.value.message
    assert "--set" in error.value.message
