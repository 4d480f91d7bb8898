"""The judge of questions: its graph against torch, what it says of pairs, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from services.core.errors import ModelError
from services.core.seeds import stream
from services.semcache.embedder import MiniLm, PairJudge, bundled_embedder
from services.semcache.training import HELD, PAIRS, Group, Learner, examples, groups, logits, train

SAME = ("How long does shipping take?", "shipping duration")
OTHER = ("How much does shipping cost?", "How long are returns accepted?")


@pytest.fixture(scope="module")
def embedder() -> MiniLm:
    return MiniLm(bundled_embedder())


def test_the_graph_says_what_torch_says(embedder: MiniLm, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(3)
    learner = Learner(bundled_embedder()).eval()
    with torch.no_grad():
        for _, weight in learner.changing():
            if weight.dim() > 1 and min(weight.shape) > 4:
                weight.add_(0.05 * torch.randn(weight.shape[0], 4) @ torch.randn(4, weight.shape[1]))
    save_file(learner.learned(4), tmp_path / "judge.safetensors")
    exact = PairJudge(embedder, tmp_path / "judge.safetensors", quantised=False)
    integers = PairJudge(embedder, tmp_path / "judge.safetensors")
    for one, two in ((SAME[0], SAME[1]), (SAME[0], OTHER[0]), ("word " * 40, "Ça va? 你好")):
        wanted = float(logits(learner, [(one, two)])[0])
        assert logit(exact.same(one, two)) == pytest.approx(wanted, abs=5e-3), "changes are kept in float16"
        assert logit(integers.same(one, two)) == pytest.approx(wanted, abs=0.3)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_what_was_learned_tells_look_alikes_from_wordings(embedder: MiniLm) -> None:
    judge = PairJudge(embedder)
    least = judge.same(*SAME)
    assert all(judge.same(known, other) < least for known in SAME for other in OTHER)


def test_both_orders_count_alike(embedder: MiniLm) -> None:
    judge = PairJudge(embedder)
    assert judge.same(*SAME) == pytest.approx(judge.same(*SAME[::-1]))


def test_a_file_that_is_none_is_named(embedder: MiniLm, tmp_path: Path) -> None:
    (tmp_path / "judge.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"judge\.safetensors: no judge of questions can be read"):
        PairJudge(embedder, tmp_path / "judge.safetensors")


def test_it_learns() -> None:
    torch.manual_seed(1)
    found = [Group(SAME, OTHER), Group(("What is a cat?", "define cat"), ("What is a dog?", "What does a cat eat?"))]
    learner = Learner(bundled_embedder())
    train(learner, found, steps=40, batch=8, rate=3e-4, seed=1, progress=Progress(disable=True))
    same = [(group.same[0], group.same[1]) for group in found]
    other = [(one, two) for group in found for one in group.same for two in group.other]
    assert float(logits(learner, same).min()) > float(logits(learner, other).max())


def test_pairs_are_whole() -> None:
    names = sorted(path.name for path in PAIRS.glob("*.txt"))
    assert HELD in names and len(names) > 1
    for name in names:
        found = groups((PAIRS / name).read_text(encoding="utf-8"))
        assert all(not set(group.same) & set(group.other) for group in found), name
    source = examples(found, stream(1, "test"))
    drawn = [next(source) for _ in range(1000)]
    assert {each[2] for each in drawn} == {0.0, 1.0} and all(one != two for one, two, _ in drawn)
