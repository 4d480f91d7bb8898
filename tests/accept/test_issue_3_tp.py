"""Issue 3, tensor parallelism: 16 prompts through every pairing of 1 and 2 ranks, whole and in chunks.

Between workers of one degree every sampled row's logits are, bit by bit, those of the one-request loop of that degree;
between degrees the tokens are held to the rule of the architecture's section 7.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from services.engine.checkpoint import DEFAULT_MODEL, prepare_model, read_shape
from services.engine.model import Model
from services.engine.model_runner import ModelRunner, load_runner
from services.engine.tiny import save_tiny
from services.engine.weights import load_tensors
from tests.accept.saved import Saved
from tests.accept.test_issue_3_bits import recorded_digests
from tests.cluster.harness import running
from tests.cluster.tensor_parallel import alone, generate_all, kill_a_rank, prompts, tp_config
from tests.engine.bits import ENGINE, code_digest
from tests.engine.one_request_loop import Generated, forced_logits
from tests.engine.rank_peer import BLOCK_SIZE, POOL_BYTES, tp_runner
from tests.engine.reference_rule import assert_rule, divergences_from

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
LENGTHS = (5, 9, 15, 16, 17, 31, 33, 48, 64, 65, 80, 100, 128, 150, 200, 256)
OUTPUT_TOKENS = 16
POOL_OF = {"uneven": 2**26, "even": 2**22}
PAIRINGS = ((1, 1), (1, 2), (2, 1), (2, 2))
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"scheduler": {"max_chunk_tokens": 256, "prefill_tile_tokens": 16}},
    "chunked": {
        "scheduler": {"max_chunk_tokens": 48, "prefill_tile_tokens": 16},
        "router": {"early_grant_tokens": 60},  # longer ones are sent while they are computed
    },
}


@pytest.fixture(scope="module", params=["uneven", "even"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """SmolLM2 has 3 KV heads; a tiny random model has 2."""
    if request.param == "uneven":
        return request.param, prepare_model(DEFAULT_MODEL, ROOT / ".cache" / "models")
    path = tmp_path_factory.mktemp("even") / "model"
    save_tiny(path)
    return request.param, path


def loops(name: str, folder: Path, ranks: int) -> list[Generated]:
    """Every prompt alone, on one degree of tensor parallelism; those computed before come from a file."""
    saved = Saved("issue_3_tp_loops", code_digest(ROOT, ENGINE))
    found = []
    with ExitStack() as stack:

        @cache
        def runner() -> ModelRunner:
            if ranks == 1:
                return load_runner(folder, "float32", POOL_BYTES, BLOCK_SIZE, 1, testing_digests=True)
            return stack.enter_context(tp_runner(folder, ranks))[0]

        for prompt in prompts(LENGTHS, read_shape(folder).vocab):

            def compute(prompt: tuple[int, ...] = prompt) -> list[list[Any]]:
                generated = alone(runner(), prompt, OUTPUT_TOKENS)
                return [list(generated.tokens), list(generated.digests)]

            tokens, digests = saved.get(f"{name} {ranks} {len(prompt)}", compute)
            found.append(Generated(tuple(tokens), tuple(digests)))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("prefill", "decode"), PAIRINGS, ids=str)
def test_every_pairing(folder: tuple[str, Path], prefill: int, decode: int, way: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    name, path = folder
    model = Model(*load_tensors(path), "float32")
    asked = prompts(LENGTHS, model.shape.vocab)
    others = {"record": {"folder": str(tmp_path / "decisions")}, "cache": {"memory_bytes": POOL_OF[name]}, **WAYS[way]}
    config = tp_config(path, prefill, decode, **others)
    with running(tmp_path / "c", config) as cluster:
        names = [f"p{len(prompt)}" for prompt in asked]
        outputs = generate_all(cluster, asked, OUTPUT_TOKENS, names)
        digests = recorded_digests(tmp_path / "decisions")
    of_prefill = loops(name, path, prefill)
    for request, loop in zip(names, of_prefill, strict=True):
        assert digests[request][0] == loop.digests[0], f"{request}: first token"
    if prefill == decode:
        for request, tokens, loop in zip(names, outputs, of_prefill, strict=True):
            assert tokens == loop.tokens, request
            assert tuple(digests[request][index] for index in range(OUTPUT_TOKENS)) == loop.digests, request
    found = {
        request: divergences_from(forced_logits(model, prompt, tokens), tokens)
        for request, prompt, tokens in zip(names, asked, outputs, strict=True)
    }
    print({request: [str(one) for one in each] for request, each in found.items() if each})
    assert_rule(found)


def test_any_lost_rank_is_a_lost_worker(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    config = tp_config(tmp_path / "model", 2, 2, worker={"rank_timeout_s": 3.0})
    with running(tmp_path / "c", config) as cluster:
        kill_a_rank(cluster, "prefill-0", 1)
        kill_a_rank(cluster, "decode-0", 0)
        kill_a_rank(cluster, "decode-0", 0, signal.SIGSTOP)
