"""Tensor parallelism in real processes: one rank's tokens, the same bits in any batch, an end when a rank dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.core.batch import Row, SampleSpec, ScheduledBatch, StepOutput
from services.core.errors import ConfigError
from services.core.ports import RunnerLost
from services.engine.model import Model
from services.engine.model_runner import ModelRunner
from services.engine.model_shape import Rope
from services.engine.shard import shard_of, split
from services.engine.tiny import save_tiny, tiny_shape
from services.engine.tp_runner import TpRunner, decode_rows, encode_rows
from services.engine.weights import load_tensors
from tests.engine.one_request_loop import forced_logits
from tests.engine.rank_peer import tp_runner
from tests.engine.reference_rule import assert_rule, divergences_from

GREEDY = SampleSpec(0.0, 0)
PROMPTS = [tuple((salt + 31 * place) % 380 for place in range(length)) for salt, length in ((3, 5), (50, 70), (90, 37))]
MODELS = {
    "even": {
        "architecture": "Qwen3ForCausalLM",
        "heads": 4,
        "kv_heads": 2,
        "qk_norm": True,
        "window": 50,
        "windowed_layers": (1,),
    },
    "uneven": {
        "heads": 9,
        "kv_heads": 3,
        "hidden": 72,
        "ffn": 100,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "rope": Rope(1e4, "yarn", 4.0, 32, attention_factor=1.1),
    },
}


class Loop:
    """Requests stepped by hand on one runner; blocks are dealt in order."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._steps = 0
        self._blocks = 0

    def step(self, *rows: Row) -> StepOutput:
        self._steps += 1
        output = self._runner.execute(ScheduledBatch(self._steps, rows))
        assert output.error is None
        return output

    def table(self, tokens: int) -> tuple[int, ...]:
        first, self._blocks = self._blocks, self._blocks + -(-tokens // 16)
        return tuple(range(first, self._blocks))

    def alone(self, prompt: tuple[int, ...], count: int, chunk: int = 10**6) -> tuple[list[int], list[str]]:
        """Tokens and digests of one request that has every step for itself."""
        table = self.table(len(prompt) + count)
        for start in range(0, len(prompt), chunk):
            ids = prompt[start : start + chunk]
            last = start + len(ids) == len(prompt)
            output = self.step(Row("r", ids, start, table, GREEDY if last else None))
        tokens, digests = [output.tokens[0]], [output.logits_digests[0]]
        while len(tokens) < count:
            output = self.step(Row("r", (tokens[-1] or 0,), len(prompt) + len(tokens) - 1, table, GREEDY))
            tokens.append(output.tokens[0])
            digests.append(output.logits_digests[0])
        return [token for token in tokens if token is not None], digests

    def together(self, prompts: list[tuple[int, ...]], count: int) -> list[tuple[list[int], list[str]]]:
        """The same for several requests that share every step; the first step is all prompts at once."""
        tables = [self.table(len(prompt) + count) for prompt in prompts]
        found: list[tuple[list[int], list[str]]] = [([], []) for _ in prompts]
        rows = [Row(f"{n}", ids, 0, tables[n], GREEDY) for n, ids in enumerate(prompts)]
        for step in range(count):
            output = self.step(*rows)
            for (tokens, digests), token, digest in zip(found, output.tokens, output.logits_digests, strict=True):
                assert token is not None
                tokens.append(token)
                digests.append(digest)
            rows = [
                Row(f"{n}", (found[n][0][-1],), len(prompt) + step, tables[n], GREEDY)
                for n, prompt in enumerate(prompts)
            ]
        return found


@pytest.fixture(scope="module", params=[("even", 2), ("uneven", 2), ("uneven", 3)], ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TpRunner, Model]]:
    name, ranks = request.param
    folder = tmp_path_factory.mktemp("tp") / "model"
    save_tiny(folder, **MODELS[name])
    with tp_runner(folder, ranks) as (runner, _):
        yield runner, Model(*load_tensors(folder), "float32")


def test_tokens_are_those_of_one_rank(case: tuple[TpRunner, Model]) -> None:
    runner, model = case
    loop = Loop(runner)
    outputs = [tuple(loop.alone(prompt, 16)[0]) for prompt in PROMPTS]
    assert_rule(
        {
            str(prompt): divergences_from(forced_logits(model, prompt, tokens), tokens)
            for prompt, tokens in zip(PROMPTS, outputs, strict=True)
        }
    )


def test_bits_depend_on_neither_batch_nor_chunks(case: tuple[TpRunner, Model]) -> None:
    loop = Loop(case[0])
    alone = [loop.alone(prompt, 8) for prompt in PROMPTS]
    assert [loop.alone(prompt, 8, chunk=16) for prompt in PROMPTS] == alone
    assert loop.together(PROMPTS, 8) == alone


def test_a_rank_holds_its_share_and_nothing_else(case: tuple[TpRunner, Model]) -> None:
    runner, model = case
    whole = model.shape
    shard = shard_of(whole, 0, runner.group.ranks)
    assert runner.notes == (), "the self-test passed"
    assert runner.shape.kv_heads == runner.pool.num_kv_heads == len(shard.kv_heads)
    assert (runner.pool.first_kv_head, runner.pool.total_kv_heads) == (0, whole.kv_heads)
    assert runner.shape.weight_bytes("float32") < whole.weight_bytes("float32")


def test_a_bad_row_is_refused_and_the_ranks_stay_in_step(case: tuple[TpRunner, Model]) -> None:
    loop = Loop(case[0])
    before = loop.alone(PROMPTS[0], 4)
    output = case[0].execute(ScheduledBatch(1, (Row("bad", (10**6,), 0, (0,), GREEDY),)))
    assert output.error is not None
    assert "token id" in output.error
    assert loop.alone(PROMPTS[0], 4) == before


def test_float16_tokens_are_those_of_one_rank(tiny_folder: Path) -> None:
    model = Model(*load_tensors(tiny_folder), "float16")
    with tp_runner(tiny_folder, 2, "float16") as (runner, _):
        tokens = tuple(Loop(runner).alone(PROMPTS[1], 16)[0])
    assert_rule({"": divergences_from(forced_logits(model, PROMPTS[1], tokens), tokens)})


@pytest.mark.parametrize(("blow", "says"), [(signal.SIGKILL, "closed|reset"), (signal.SIGSTOP, "Timed out")], ids=str)
def test_a_rank_that_dies_or_hangs_ends_the_runner(tmp_path: Path, blow: signal.Signals, says: str) -> None:
    save_tiny(tmp_path / "model", **MODELS["uneven"])
    with pytest.raises(RunnerLost, match=says), tp_runner(tmp_path / "model", 3, timeout_s=1.0) as (runner, others):
        loop = Loop(runner)
        loop.alone(PROMPTS[0], 2)
        os.kill(others[0].pid or 0, blow)
        try:
            loop.alone(PROMPTS[0], 2)
        finally:
            others[1].join(10)
            assert others[1].exitcode == 3, "the other rank ends too"


@pytest.mark.parametrize("blocks", [1, 700], ids=["one frame", "several frames"])
def test_rows_cross_as_numbers(blocks: int) -> None:
    rows = [Row("a", (5, 6, 7), 4, tuple(range(blocks)), None), Row("b", (9,), 0, (3,), GREEDY)]
    step_id, back = decode_rows(encode_rows(7, rows))
    assert step_id == 7
    assert [(row.token_ids, row.start, row.block_table) for row in back] == [
        (row.token_ids, row.start, row.block_table) for row in rows
    ]


def test_splits_are_whole_and_in_order() -> None:
    assert split(3, 2) == [range(2), range(2, 3)]
    assert split(100, 3) == [range(34), range(34, 67), range(67, 100)]
    shape = tiny_shape(heads=9, kv_heads=3)
    shards = [shard_of(shape, rank, 2) for rank in range(2)]
    assert [(shard.kv_heads, shard.heads) for shard in shards] == [(range(2), range(6)), (range(2, 3), range(6, 9))]
    with pytest.raises(ConfigError, match="tp = 4: the model has 3 KV heads; write 1 to 3"):
        shard_of(shape, 0, 4)
