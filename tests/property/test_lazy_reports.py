"""Reports that are made when the front door reads them leave the same world as reports that are sent."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.workload import WorkloadRow
from services.sim.config import DelaysConfig
from services.sim.faults import Fault, FaultKind
from tests.sim.runs import config_of, pools, simulated

# Whoever expects a fault has every report sent; this one is none.
NOTHING = Fault(FaultKind.SLOW_LINK, 0.0, "zone", lasts_s=1.0, factor=1.0)
PREFIXES: list[tuple[int, ...]] = [(), (1, 2, 3, 4), (1, 2, 5)]
rows_of = st.lists(
    st.tuples(st.integers(0, 200), st.integers(1, 900), st.integers(1, 90), st.sampled_from(PREFIXES)),
    min_size=1,
    max_size=24,
).map(
    lambda found: [
        WorkloadRow(at / 100, prompt, output, prefix=prefix, prefix_block_tokens=64)
        for at, prompt, output, prefix in sorted(found)
    ]
)


@settings(max_examples=settings().max_examples // 3)
@given(
    rows=rows_of,
    blocks=st.sampled_from([80, 400]),
    waiting=st.sampled_from([1, 1000]),
    workers=st.integers(1, 3),
    # With 2 ms to the door, a request that came at a hundredth of a second sees reports that arrive with it.
    stream_ms=st.sampled_from([0.0, 1.5, 2.0]),
)
def test_reports_that_are_read_and_reports_that_are_sent_agree(
    rows: list[WorkloadRow], blocks: int, waiting: int, workers: int, stream_ms: float
) -> None:
    config = config_of(
        scheduler={"max_batch_tokens": 256, "max_sequences": 64},
        prefill={"max_waiting_requests": waiting},
        router={"early_grant_tokens": 300},
    )
    delays = DelaysConfig(stream_ms=stream_ms)
    found = []
    for faults in ((), (NOTHING,)):
        cluster, run = simulated(rows, pools(workers, workers, blocks), config, delays, check=False, faults=faults)
        cores = {ref: worker.core.state() for ref, worker in cluster.workers.items()}
        found.append((run.samples, run.workers, run.moves, run.placements, run.bytes_moved, cores))
    assert found[0] == found[1]
