"""Whatever arrives, and however small the pool: the budget holds, nobody stalls, nobody starves, everybody ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.core.actions import Emit, RunStep, StepDone, Submit
from services.core.batch import ScheduledBatch, StepOutput
from services.core.output import by_request
from services.core.request import FinishReason, Request, WorkerRef
from services.scheduling.host import WorkerCore
from services.scheduling.token_budget import TokenBudget
from services.scheduling.waiting import ORDERS
from tests.factories import BLOCK_SIZE, make_core, make_request, make_spec
from tests.world import token_at

ME = WorkerRef("w", 1)
LIMIT = 2


class Colocated:
    """One worker that hosts both stages, stepped by hand; every step is checked against the rules of the scheduler."""

    def __init__(self, scheduler: dict[str, object], blocks: int) -> None:
        fields = {"max_preemptions": LIMIT, **scheduler}
        self.budget = TokenBudget.of(make_spec("w", ("prefill", "decode"), scheduler=fields).scheduler)
        self.core: WorkerCore = make_core(ME, ("prefill", "decode"), blocks, scheduler=fields)
        self.batch: ScheduledBatch | None = None
        self.tokens: dict[str, list[int]] = {}
        self.prompts: dict[str, int] = {}
        self.finished: dict[str, FinishReason] = {}
        self.now = 0
        self.without_prompt = 0

    def feed(self, event: Submit | StepDone) -> None:
        self.now += 1_000_000
        for action in self.core.handle(self.now, event):
            if isinstance(action, RunStep):
                assert self.batch is None
                self.batch = action.batch
            elif isinstance(action, Emit):
                for output in by_request(action.outputs):
                    self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
                    if output.finish:
                        self.finished[output.request_id] = output.finish
        self.core.check()

    def submit(self, request: Request) -> None:
        self.prompts[request.request_id] = len(request.prompt)
        self.feed(Submit("door", request))

    def step(self) -> None:
        batch, self.batch = self.batch, None
        assert batch is not None
        self.check(batch)
        tokens = tuple(token_at(row.request_id, row.end) if row.sample else None for row in batch.rows)
        self.feed(StepDone("runner", StepOutput(batch.step_id, tokens)))

    def check(self, batch: ScheduledBatch) -> None:
        """T6 budget, T7 no stall, and the tile that prompts get."""
        assert batch.num_tokens <= self.budget.total
        assert len({row.request_id for row in batch.rows}) == len(batch.rows) <= self.budget.max_running
        rows = {row.request_id for row in batch.rows}
        scheduler = self.core._scheduler
        assert {state.request.request_id for state in scheduler.decodes} <= rows, "every running decode has a row"
        prompts = [state for state in scheduler._running if not state.is_decoding]
        computed = sum(len(row.token_ids) for row in batch.rows if len(row.token_ids) > 1 or row.sample is None)
        if prompts and self.budget.tile:
            wanted = sum(min(state.num_uncomputed, self.budget.max_chunk) for state in prompts)
            assert computed + len(batch.rows) >= min(self.budget.tile, wanted), "prompts get a tile"


@given(st.data(), st.sampled_from(ORDERS.names()), st.sampled_from([1, 2, 7, 16, 512]))
def test_every_request_ends_with_the_right_tokens(data: st.DataObject, order: str, budget: int) -> None:
    scheduler = {
        "max_batch_tokens": budget,
        "prefill_tile_tokens": data.draw(st.sampled_from([1, 4, 16])),
        "max_chunk_tokens": data.draw(st.sampled_from([None, 1, 3, 8])),
        "max_sequences": data.draw(st.integers(1, 6)),
        "order": order,
    }
    blocks = data.draw(st.integers(8, 24))
    worker = Colocated(scheduler, blocks)
    requests = []
    for number in range(data.draw(st.integers(1, 7))):
        size = data.draw(st.integers(1, 20))
        outputs = data.draw(st.integers(1, BLOCK_SIZE * blocks - size))
        request = make_request(
            f"r{number}",
            tuple(data.draw(st.integers(0, 1)) for _ in range(size)),
            max_tokens=min(outputs, 24),
            priority=data.draw(st.integers(-2, 2)),
            deadline_unix_ms=data.draw(st.none() | st.integers(10**9, 10**9 + 5)),
        )
        requests.append(request)
        worker.submit(request)
        for _ in range(data.draw(st.integers(0, 4))):
            if worker.batch is not None:
                worker.step()
    # Every step computes at least a token; a request is computed once, and again after each preemption.
    bound = sum(request.max_num_tokens for request in requests) * (LIMIT + 1) + len(requests)
    for _ in range(bound):
        if worker.batch is None:
            break
        worker.step()
    assert worker.batch is None, "everything ends in bounded work"
    for request in requests:
        start = len(request.prompt)
        expected = [token_at(request.request_id, start + i) for i in range(request.sampling.max_tokens)]
        assert worker.tokens[request.request_id] == expected
        assert worker.finished[request.request_id] is FinishReason.LENGTH
    assert worker.core.load().kv_blocks_used == 0
    assert worker.core.idle


@given(st.sampled_from(ORDERS.names()), st.integers(1, 8), st.integers(0, 400))
def test_nobody_starves_while_others_keep_coming(order: str, priority: int, tokens: int) -> None:
    """A long prompt of the lowest rank is served although a better one arrives at every step, for ever."""
    worker = Colocated({"order": order, "max_batch_tokens": 8, "prefill_tile_tokens": 4, "ageing_s": 0.02}, 128)
    patient = make_request("patient", tuple([1] * (40 + tokens)), max_tokens=2, deadline_unix_ms=2000)
    worker.submit(patient)
    for number in range(10_000):
        if "patient" in worker.finished:
            break
        fresh = make_request(f"f{number}", (2, 3, 4, 5), max_tokens=1, priority=priority, deadline_unix_ms=number + 500)
        worker.submit(fresh)
        worker.step()
        if worker.core.load().queued_prefill_tokens > 2000:
            break
    waited = worker.now // 1_000_000
    assert "patient" in worker.finished, f"still waiting after {waited} ms"


def test_a_prompt_as_large_as_the_pool_waits_for_it_and_then_runs() -> None:
    worker = Colocated({"max_batch_tokens": 16, "prefill_tile_tokens": 4}, blocks=24)
    for number in range(5):
        worker.submit(make_request(f"small{number}", (1, 2, 3, 4, number), max_tokens=30))
    big = make_request("big", tuple(range(90)), max_tokens=6)
    worker.submit(big)
    for number in range(5, 9):
        worker.submit(make_request(f"small{number}", (1, 2, 3, 4, number), max_tokens=30))
    while worker.batch is not None:
        worker.step()
    assert set(worker.finished.values()) == {FinishReason.LENGTH}
    assert len(worker.finished) == 10
    order = list(worker.finished)
    assert order.index("big") < order.index("small8"), "it is not passed by those that came later"
