"""A prefill worker of two ranks and a decode worker of one, in a real cluster: one worker each, and they die whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engine.model import Model
from services.engine.tiny import save_tiny
from services.engine.weights import load_tensors
from services.pb import inference_pb2 as pb
from tests.cluster.harness import Cluster, running
from tests.cluster.tensor_parallel import generate_all, kill_a_rank, prompts, rank_pids, tp_config
from tests.engine.one_request_loop import forced_logits
from tests.engine.reference_rule import assert_rule, divergences_from

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 3 KV heads."""
    folder = tmp_path_factory.mktemp("tp") / "model"
    save_tiny(folder, heads=9, kv_heads=3, hidden=72)
    return folder


@pytest.fixture(scope="module")
def split(tiny: Path) -> Iterator[Cluster]:
    """Two ranks prefill, one decodes; parts of 64 tokens, the long prompts sent while they are computed."""
    others = {"scheduler": {"max_chunk_tokens": 64, "prefill_tile_tokens": 16}, "router": {"early_grant_tokens": 100}}
    with running(tiny.parent / "c", tp_config(tiny, 2, 1, **others)) as cluster:
        yield cluster


def test_tokens_are_those_of_one_rank(split: Cluster, tiny: Path) -> None:
    model = Model(*load_tensors(tiny), "float32")
    asked = prompts((5, 40, 150, 256), model.shape.vocab)
    outputs = generate_all(split, asked, 12)
    assert_rule(
        {
            str(len(prompt)): divergences_from(forced_logits(model, prompt, tokens), tokens)
            for prompt, tokens in zip(asked, outputs, strict=True)
        }
    )


def test_status_shows_one_line_for_a_worker_of_two_processes(split: Cluster) -> None:
    lines = [line for line in split.cli("status").stdout.splitlines() if line.startswith(("prefill", "decode"))]
    assert [line.split()[0] for line in lines] == ["decode-0", "prefill-0"]
    assert (len(rank_pids(split, "prefill-0")), len(rank_pids(split, "decode-0"))) == (2, 1)


def test_a_worker_of_two_ranks_begins_outputs_of_a_form(split: Cluster) -> None:
    texts = ["abc", "xyz"]
    wanted = pb.Structured(choice=pb.Choices(texts=texts))
    found = [split.generate([9, 8, 7], structured=wanted, temperature=1.0, seed=seed) for seed in range(4)]
    assert all(each.text in texts for each in found), found


def test_a_dead_rank_is_a_dead_worker(split: Cluster) -> None:
    kill_a_rank(split, "prefill-0", 0)
