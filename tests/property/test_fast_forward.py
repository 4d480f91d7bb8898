"""Steady decode steps that are passed over leave the same world as steps that are simulated one by one."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.workload import WorkloadRow
from services.sim.faults import Fault, FaultKind
from tests.sim.runs import config_of, pools, simulated

rows_of = st.lists(
    st.tuples(st.integers(0, 400), st.integers(1, 900), st.integers(1, 120)), min_size=1, max_size=14
).map(lambda found: [WorkloadRow(at / 100, prompt, output) for at, prompt, output in sorted(found)])
faults_of = st.lists(
    st.one_of(
        st.builds(
            Fault,
            st.just(FaultKind.CRASH),
            st.integers(0, 50).map(lambda at: at / 10),
            st.sampled_from(["decode-0", "prefill-0"]),
        ),
        st.builds(
            Fault,
            st.just(FaultKind.STALL),
            st.integers(0, 50).map(lambda at: at / 10),
            st.sampled_from(["decode-0", "prefill-0"]),
            lasts_s=st.sampled_from([0.05, 1.5]),
        ),
        st.builds(
            lambda at, ends, lasts_s: Fault(FaultKind.PARTITION, at, *ends, lasts_s=lasts_s),
            st.integers(0, 50).map(lambda at: at / 10),
            st.sampled_from([("prefill-0", "decode-0"), ("decode-0", "door"), ("prefill-0", "door")]),
            st.sampled_from([0.05, 4.0]),
        ),
        st.builds(
            Fault,
            st.just(FaultKind.SLOW_LINK),
            st.integers(0, 50).map(lambda at: at / 10),
            st.just("host"),
            lasts_s=st.just(2.0),
            factor=st.sampled_from([3.0, 50.0]),
        ),
    ),
    max_size=2,
)


@settings(max_examples=settings().max_examples // 3)
@given(
    rows=rows_of,
    faults=faults_of,
    blocks=st.sampled_from([80, 400]),
    sequences=st.sampled_from([3, 64]),
    roles=st.sampled_from([("decode",), ("prefill", "decode")]),
)
def test_single_steps_and_steps_passed_over_agree(
    rows: list[WorkloadRow], faults: list[Fault], blocks: int, sequences: int, roles: tuple[str, ...]
) -> None:
    config = config_of(
        scheduler={"max_batch_tokens": 256, "max_sequences": sequences},
        router={"early_grant_tokens": 300},
    )
    found = []
    for fast in (True, False):
        prefill, decode = pools(1, 1, blocks)
        given_pools = [
            prefill,
            replace(decode, roles=roles),
        ]
        cluster, run = simulated(rows, given_pools, config, fast=fast, check=fast, faults=tuple(faults))
        cores = {ref: worker.core.state() for ref, worker in cluster.workers.items()}
        found.append((run.samples, run.workers, run.moves, cores))
    assert found[0] == found[1]
