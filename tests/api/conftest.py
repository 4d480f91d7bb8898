"""A Ray node for the tests here that need actors; a front door and the official client for those that need no other."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import ray

from tests.api.harness import Served, client_of, serving


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A local node on a loopback address of its own; actors must ask for no CPU."""
    ray.init(num_cpus=4, include_dashboard=False, _node_ip_address="127.0.0.2", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """With the defaults; tests that need others have their own."""
    async with serving(tmp_path) as found:
        yield found


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(served) as found:
        yield found
