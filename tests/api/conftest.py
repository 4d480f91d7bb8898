"""A Ray node for the tests here that need actors."""

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A local node on a loopback address of its own; actors must ask for no CPU."""
    ray.init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.2", log_to_driver=False)
    yield
    ray.shutdown()
