"""Steps of the runner: equal bits in every batch and chunking, errors as answers, start-up checks."""

from pathlib import Path

import pytest
import torch

from services.core.batch import Row, SampleSpec, ScheduledBatch
from services.core.clock import VirtualClock
from services.core.errors import MemoryShortError, ModelError
from services.engine import measure, model_runner
from services.engine.kv_pool import PagedKvPool
from services.engine.layers import KINDS, Linear
from services.engine.measure import decode_batch, decode_times, prefill_times
from services.engine.model import Model
from services.engine.model_runner import ModelRunner, check_memory, load_runner
from services.engine.tiny import save_tiny, tiny_model, tiny_shape
from tests.engine.one_request_loop import generate

GREEDY = SampleSpec(0.0, 0)
WARM = SampleSpec(0.8, 1234)


class Requests:
    """Drives a runner by hand: requests with scattered blocks, cut into steps as a test wants."""

    def __init__(self, model: Model, num_blocks: int = 96, block_size: int = 16) -> None:
        shape = model.shape
        pool = PagedKvPool(shape.num_layers, num_blocks, shape.kv_heads, block_size, shape.head_dim, torch.float32)
        self.runner = ModelRunner(model, pool, testing_digests=True)
        self._free = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1)).tolist()
        self._tables: dict[str, tuple[int, ...]] = {}
        self._step = 0

    def row(self, name: str, ids: tuple[int, ...], start: int, stop: int, spec: SampleSpec | None) -> Row:
        if name not in self._tables:
            self._tables[name] = tuple(self._free.pop() for _ in range(12))
        return Row(name, ids[start:stop], start, self._tables[name], spec)

    def step(self, *rows: Row) -> list[tuple[int | None, str]]:
        self._step += 1
        output = self.runner.execute(ScheduledBatch(self._step, rows))
        assert output.error is None and output.step_id == self._step
        return list(zip(output.tokens, output.logits_digests, strict=True))


def prompt_of(model: Model, length: int, salt: int = 0) -> tuple[int, ...]:
    return tuple((37 * position + 101 * salt + 5) % model.shape.vocab for position in range(length))


@pytest.fixture(params=["tiny", "smollm2"])
def model(request: pytest.FixtureRequest) -> Model:
    """Each test of bits runs on the tiny and on the default model."""
    found: Model = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_bits_do_not_depend_on_how_the_prompt_is_chunked(model: Model, chunk: int) -> None:
    prompt = prompt_of(model, 36 if model.shape.hidden > 64 else 150)
    expected = generate(model, prompt, 3)
    requests = Requests(model)
    for start in range(0, len(prompt), chunk):
        stop = min(start + chunk, len(prompt))
        (answer,) = requests.step(requests.row("r", prompt, start, stop, GREEDY if stop == len(prompt) else None))
    assert answer == (expected.tokens[0], expected.digests[0])
    ids = (*prompt, expected.tokens[0])
    (answer,) = requests.step(requests.row("r", ids, len(prompt), len(ids), GREEDY))
    assert answer == (expected.tokens[1], expected.digests[1])


def test_bits_do_not_depend_on_who_shares_the_batch(model: Model) -> None:
    """Three requests of different age, one of them still in prefill, each equal to itself alone."""
    prompts = {name: prompt_of(model, length, length) for name, length in [("a", 20), ("b", 133), ("c", 9)]}
    specs = {"a": GREEDY, "b": WARM, "c": GREEDY}
    alone = {
        name: generate(model, prompt, 3, specs[name].temperature, specs[name].seed) for name, prompt in prompts.items()
    }
    requests = Requests(model)
    seen: dict[str, list[tuple[int | None, str]]] = {name: [] for name in prompts}
    ids = dict(prompts)

    def step(*parts: tuple[str, int, int, bool]) -> None:
        rows = [
            requests.row(name, ids[name], start, stop, specs[name] if ask else None) for name, start, stop, ask in parts
        ]
        for (name, _, _, ask), (token, digest) in zip(parts, requests.step(*rows), strict=True):
            assert (token is not None) == ask and bool(digest) == ask
            if token is not None:
                ids[name] = (*ids[name], token)
                seen[name].append((token, digest))

    step(("a", 0, 20, True))
    step(("b", 0, 64, False), ("a", 20, 21, True))
    step(("a", 21, 22, True), ("b", 64, 133, True), ("c", 0, 9, True))
    step(("c", 9, 10, True), ("b", 133, 134, True))
    step(("b", 134, 135, True), ("c", 10, 11, True))
    for name, generated in alone.items():
        assert seen[name] == list(zip(generated.tokens, generated.digests, strict=True)), name


def test_a_decode_row_is_bit_equal_to_its_place_in_a_prefill(model: Model) -> None:
    prompt = prompt_of(model, 14)
    decoded = generate(model, prompt, 6)
    everything = (*prompt, *decoded.tokens)
    for produced in (1, 3, 5):
        again = generate(model, everything[: len(prompt) + produced], 1)
        assert (again.tokens[0], again.digests[0]) == (decoded.tokens[produced], decoded.digests[produced])


def test_without_test_mode_there_are_no_digests(tiny: Model) -> None:
    requests = Requests(tiny)
    runner = ModelRunner(tiny, requests.runner.pool, clock=VirtualClock(5))
    output = runner.execute(ScheduledBatch(7, (requests.row("r", (1, 2), 0, 2, GREEDY),)))
    assert (output.step_id, output.logits_digests, output.error, output.duration_ns) == (7, (), None, 0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("r", (1, 384), 0, (0,), GREEDY), "token id is not within 0..383"),
        (Row("r", (-1,), 0, (0,), GREEDY), "token id is not within"),
        (Row("r", (), 0, (0,), GREEDY), "positions 0..0"),
        (Row("r", (1,), 2048, tuple(range(96)) * 2, GREEDY), "positions 2048..2049 are not within 0..2048"),
        (Row("r", (1,), 16, (0,), GREEDY), "1 blocks do not cover 17 tokens"),
        (Row("r", (1,), 0, (96,), GREEDY), "block id is not within 0..95"),
        (Row("r", (1,), 0, (-1,), GREEDY), "block id is not within"),
    ],
)
def test_a_bad_row_comes_back_as_an_error(tiny: Model, row: Row, reason: str) -> None:
    requests = Requests(tiny)
    output = requests.runner.execute(ScheduledBatch(3, (row,)))
    assert output.step_id == 3 and output.tokens == (None,)
    assert output.error is not None and output.error.startswith("ValueError: request r") and reason in output.error
    requests.step(requests.row("next", (1, 2), 0, 2, GREEDY))


def test_damaged_kv_is_an_error(tiny: Model) -> None:
    requests = Requests(tiny)
    requests.step(requests.row("r", (1, 2, 3), 0, 3, None))
    requests.runner.pool.data.fill_(float("nan"))
    output = requests.runner.execute(ScheduledBatch(2, (requests.row("r", (1, 2, 3, 4), 3, 4, GREEDY),)))
    assert output.error is not None and "NaN" in output.error


def test_an_empty_step_is_an_error(tiny: Model) -> None:
    assert "at least one row" in str(Requests(tiny).runner.execute(ScheduledBatch(1, ())).error)


def test_self_test_passes_and_catches_a_batch_dependent_linear(tiny: Model) -> None:
    pool = PagedKvPool(2, 4, 2, 16, 16, torch.float32)
    assert ModelRunner(tiny, pool).self_test() == []
    assert not pool.data.any()

    def leaky(linear: Linear) -> Linear:
        return lambda x: linear(x) * (1 + 1e-6 * len(x))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "bfloat16", lambda weight, bias: leaky(KINDS["float32"](weight, bias)))
        damaged = Model(*tiny_model(), "bfloat16")  # the one dtype whose rows nobody checks when it is made
    found = ModelRunner(damaged, pool).self_test()
    assert found == ["logits depend on how a prompt is chunked", "logits depend on who shares the batch"]


@pytest.mark.parametrize(("max_position", "prompts"), [(1, 0), (5, 0), (64, 2), (139, 3)])
def test_a_model_for_few_tokens_starts_and_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_position: int, prompts: int
) -> None:
    """What a start and a profile try out must fit into what the model was made for."""
    save_tiny(tmp_path, max_position=max_position)
    runner = load_runner(tmp_path, "float32", 4 << 20, 16, threads=1)
    runner.compare_threads(1, 1)
    assert runner.notes == () and runner.any_threads
    assert runner.execute(decode_batch(runner, 2, 256)).error is None
    assert len(list(prefill_times(runner, 1, lambda _what: None))) == prompts
    assert len(list(decode_times(runner, 1, lambda _what: None))) == (6 if max_position > 32 else 0)
    monkeypatch.setattr(measure, "PAUSE_S", 0.0)
    slower, warm_ms = measure.waking(runner, lambda _what: None)
    assert slower >= 1 and warm_ms > 0


def test_load_runner_is_ready_to_run(tiny_folder: Path) -> None:
    for dtype, blocks in [("float32", 512), ("float16", 512), ("bfloat16", 1024)]:
        runner = load_runner(tiny_folder, dtype, 4 << 20, 16, threads=1, testing_digests=True)
        assert runner.pool.num_blocks == blocks and runner.notes == ()
        output = runner.execute(ScheduledBatch(1, (Row("r", (1, 5, 9), 0, (blocks - 1,), GREEDY),)))
        assert output.error is None and len(output.logits_digests[0]) == 64 and output.duration_ns > 0


def test_too_little_memory_is_refused_with_numbers() -> None:
    shape = tiny_shape()
    check_memory(shape, "float32", 1 << 20, 1 << 30)
    with pytest.raises(
        MemoryShortError, match=r"needs 10\d\d MB .* KV pool 768, .* 500 MB are free; lower cache.memory"
    ):
        check_memory(shape, "float32", 768 << 20, 500 << 20)


def test_load_runner_looks_at_memory_before_it_loads(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runner, "load_tensors", None)  # would fail if it were reached
    with pytest.raises(MemoryShortError):
        load_runner(tiny_folder, "float32", 1 << 50, 16, threads=1)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_runner(tiny_folder / "absent", "float32", 1 << 20, 16, threads=1)


def test_bits_do_not_depend_on_the_number_of_threads(smollm2: Model) -> None:
    shape = smollm2.shape
    pool = PagedKvPool(shape.num_layers, 32, shape.kv_heads, 16, shape.head_dim, torch.float32)
    runner = ModelRunner(smollm2, pool)
    runner.compare_threads(1, 2)
    assert runner.any_threads and runner.notes == ()
