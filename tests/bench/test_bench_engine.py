"""The engine against transformers' bf16 generate on the same cores, and where a step's time goes."""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.core.batch import Decodes, Row, SampleSpec, ScheduledBatch
from services.engine import model_runner
from services.engine.checkpoint import DEFAULT_MODEL, prepare_model
from services.engine.model_runner import ModelRunner, load_runner

pytestmark = pytest.mark.bench
CACHE = Path(__file__).parents[2] / ".cache" / "models"
THREADS, CONTEXT, STEPS, ROUNDS = 2, 256, 16, 3
GREEDY = SampleSpec(0.0, 0)
TABLE_BLOCKS = 20
PARTS = {
    "linear": ("linear_dynamic_fp16", "linear_pointwise", "aten::linear", "aten::addmm"),
    "attention: gather": ("aten::index_select",),
    "attention: products": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::softmax", "aten::_softmax"),
    "norm, rotary, gate, residual": ("aten::mul", "aten::mul_", "aten::add_", "aten::mean", "aten::sum", "aten::div_",
                                     "aten::rsqrt_", "aten::silu"),
    "KV write": ("aten::index_copy_",),
    "sampling": ("aten::argmax", "aten::gather", "aten::isnan"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def both_threads() -> Iterator[None]:
    """Two threads for everybody, one again afterwards."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(1)


def prompt(tokens: int, seed: int = 0) -> tuple[int, ...]:
    """Token ids that look random."""
    return tuple((7 + 131 * (position + 1000 * seed)) % 40000 + 10 for position in range(tokens))


def run(runner: ModelRunner, *rows: Row, decodes: Decodes | None = None) -> float:
    """One step; seconds."""
    start = time.perf_counter()
    output = runner.execute(ScheduledBatch(1, rows, decodes))
    took = time.perf_counter() - start
    assert output.error is None, output.error
    return took


def table(sequence: int) -> tuple[int, ...]:
    """Blocks of a sequence."""
    return tuple(range(sequence * TABLE_BLOCKS, (sequence + 1) * TABLE_BLOCKS))


def decode_steps(batch: int, steps: int) -> list[Decodes]:
    """One token for each of `batch` sequences, and so on, as a scheduler asks for them."""
    names, samples = tuple(map(str, range(batch))), (GREEDY,) * batch
    tables = tuple(map(table, range(batch)))
    return [Decodes(names, (step + 5,) * batch, (CONTEXT + step,) * batch, tables, samples) for step in range(steps)]


def our_step(runner: ModelRunner, batch: int) -> float:
    """Median seconds of a decode step at 256 tokens of context and more."""
    for each in range(batch):
        run(runner, Row(str(each), prompt(CONTEXT, each), 0, table(each)[: CONTEXT // 16], GREEDY))
    return statistics.median(run(runner, decodes=each) for each in decode_steps(batch, STEPS))


def their_step(model: torch.nn.Module, batch: int) -> float:
    """Mean seconds of a step of `generate` on a static batch, its prefill taken off."""
    ids = torch.tensor([prompt(CONTEXT, each) for each in range(batch)])

    def generate(tokens: int) -> float:
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)  # type: ignore[operator]
        return time.perf_counter() - start

    first = generate(1)
    return (generate(STEPS + 1) - first) / STEPS


def ratio(name: str, ours: Callable[[], float], theirs: Callable[[], float], units: int) -> float:
    """Best of a few rounds that alternate: what disturbs one side disturbs the other as well."""
    with torch.inference_mode():
        pairs = [(ours(), theirs()) for _ in range(ROUNDS)]
    mine, other = (min(side) for side in zip(*pairs, strict=True))
    print(f"{name}: {units / mine:.1f} tok/s, transformers bf16 {units / other:.1f} tok/s, ratio {other / mine:.2f}")
    return other / mine


def load(dtype: str) -> ModelRunner:
    """The default model."""
    gc.collect()
    start = time.perf_counter()
    runner = load_runner(prepare_model(DEFAULT_MODEL, CACHE), dtype, 1024 * 2**20, 16, THREADS)
    print(f"\n{dtype}: loaded in {time.perf_counter() - start:.1f} s; fallbacks: {list(runner.notes) or 'none'}")
    return runner


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """The default model in transformers, bf16."""
    model = AutoModelForCausalLM.from_pretrained(prepare_model(DEFAULT_MODEL, CACHE), dtype=torch.bfloat16)
    return model.eval()  # type: ignore[no-any-return]


def test_float16_decodes_faster_than_transformers(theirs: torch.nn.Module) -> None:
    runner = load("float16")
    for batch in (1, 8, 64):
        print_table(runner, batch)
    one = ratio("decode, batch 1", lambda: our_step(runner, 1), lambda: their_step(theirs, 1), 1)
    eight = ratio("decode, batch 8", lambda: our_step(runner, 8), lambda: their_step(theirs, 8), 8)
    assert one >= 1.8 and eight >= 1.7


def test_bfloat16_prefills_faster_than_transformers(theirs: torch.nn.Module) -> None:
    runner = load("bfloat16")
    ids = prompt(512)

    def forward() -> float:
        start = time.perf_counter()
        theirs(torch.tensor([ids]), logits_to_keep=1)
        return time.perf_counter() - start

    def prefill() -> float:
        return run(runner, Row("0", ids, 0, tuple(range(32)), GREEDY))

    assert ratio("prefill of 512", prefill, forward, 512) >= 1.3


def timed(owner: object, name: str) -> list[float]:
    """Milliseconds of each call of an attribute of `owner`, from now on."""
    found: list[float] = []
    original = getattr(owner, name)

    def call(*arguments: object) -> object:
        start = time.perf_counter()
        result = original(*arguments)
        found.append((time.perf_counter() - start) * 1e3)
        return result

    setattr(owner, name, call)
    return found


def print_table(runner: ModelRunner, batch: int) -> None:
    """Where a decode step's time goes: some parts timed as a whole, operators by their own time under the profiler."""
    with pytest.MonkeyPatch.context() as patch:
        spent = {}
        for part, owner, name in (
            ("Python: input batch", runner, "inputs"),
            ("head", runner.model, "_head"),
            ("sampling", model_runner, "greedy"),
        ):
            patch.setattr(owner, name, getattr(owner, name))  # which is put back at the end
            spent[part] = timed(owner, name)
        walls = [run(runner, decodes=each) * 1e3 for each in decode_steps(batch, STEPS)]
    parts = {part: statistics.median(each) for part, each in spent.items()}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for each in decode_steps(batch, STEPS):
            run(runner, decodes=each)
    operators: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        name = event.key.removeprefix("quantized::")
        part = next((part for part, names in PARTS.items() if name in names), "other operators")
        operators[part] += event.self_cpu_time_total / 1e3 / STEPS
    operators["linears of the layers"] = operators.pop("linear") - parts["head"]
    del operators["sampling"]
    parts |= operators
    wall = statistics.median(walls)
    parts["Python and dispatch, all others"] = wall - sum(parts.values())
    print(f"a step of {batch} rows at {CONTEXT} tokens: {wall:.2f} ms")
    for part, ms in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:32s} {ms:7.2f} ms")
