"""What a configuration asks of the host: compute threads against cores, and when cores are lent."""

from __future__ import annotations

import pytest

from services.cluster.config import ClusterConfig
from services.cluster.topology import check_threads, core_ledger, total_threads
from services.core.config import parse
from services.core.errors import ConfigError


def config(**pools: dict[str, int]) -> ClusterConfig:
    return parse(ClusterConfig, {"pools": pools, "state_folder": "/state"})


def test_as_many_threads_as_cores_are_fine() -> None:
    assert total_threads(config(prefill={"threads": 2}, decode={"replicas": 2})) == 4
    assert check_threads(config(prefill={"threads": 2}, decode={"replicas": 2}), 4) is None


def test_too_many_threads_are_refused_with_the_key() -> None:
    with pytest.raises(ConfigError, match=r"pools\.decode\.threads.*3 threads on 2 cores"):
        check_threads(config(decode={"threads": 2}), 2)


def test_more_workers_than_cores_are_told() -> None:
    warning = check_threads(config(decode={"replicas": 3}), 2)
    assert warning is not None and "4 threads on 2 cores" in warning


def test_cores_are_lent_where_there_is_one_for_every_worker() -> None:
    assert core_ledger(config(), "c1", 2) == "/state/clusters/c1.cores"
    assert core_ledger(config(), "c1", 1) is None
    off = parse(ClusterConfig, {"worker": {"lend_cores": False}})
    assert core_ledger(off, "c1", 2) is None
