"""A slice of the bit equality of issue 3, and that a wrong bit anywhere would be seen."""

from __future__ import annotations

import pytest

from services.core.actions import PostReceive, PostSend
from services.engine.model import Model
from services.engine.tiny import tiny_model
from tests.engine.bits import Bench, D, EngineWorld, Plan, evidence, make_jobs

PLANS = [
    Plan(1, None, False, False),
    Plan(8, 16, True, True),
    Plan(12, 64, False, False, "preempted"),
    Plan(12, 16, True, True, "preempted"),
    Plan(12, None, False, True, "continued"),
    Plan(8, 64, True, False, "continued"),
    Plan(8, 16, False, True, "local"),
]


def test_a_tiny_models_logits_are_the_plain_loops_in_every_kind_of_batch() -> None:
    model = Model(*tiny_model(), "float32")
    jobs = make_jobs((5, 9, 16, 17, 33, 40, 64, 21, 100, 31, 200, 64), model.shape.vocab, 14)
    references = [job.reference(model) for job in jobs]
    bench = Bench(model, 2048)
    for plan in PLANS:
        outcome = bench.run(plan, jobs, references)
        assert not outcome.wrong, (plan.name, outcome.wrong)
        assert not evidence(plan, outcome), (plan.name, outcome)


def test_the_default_models_logits_are_the_plain_loops(smollm2: Model) -> None:
    jobs = make_jobs((5, 40, 33), smollm2.shape.vocab, 4)
    references = [job.reference(smollm2) for job in jobs]
    plan = Plan(3, 16, True, True, "continued")
    outcome = Bench(smollm2, 256).run(plan, jobs, references)
    assert not outcome.wrong, outcome.wrong
    assert not evidence(plan, outcome)


def test_one_wrong_number_of_one_page_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(*tiny_model(), "float32")
    jobs = make_jobs((20, 33), model.shape.vocab, 4)
    references = [job.reference(model) for job in jobs]
    bench, plan = Bench(model, 256), Plan(2, 16, False, False)
    assert not bench.run(plan, jobs, references).wrong
    move = EngineWorld.copy

    def spoil(world: EngineWorld, send: PostSend, receive: PostReceive) -> None:
        move(world, send, receive)
        world.runners[D].pool.data[0, 1, receive.blocks[0], 0, 3, 0] *= 1 + 2**-10

    monkeypatch.setattr(EngineWorld, "copy", spoil)
    assert len(bench.run(plan, jobs, references).wrong) == 2
