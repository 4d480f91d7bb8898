"""The transformer against the transformers library: every served architecture at tiny size, every dtype."""

import warnings
from pathlib import Path

import pytest
import torch

from services.core.batch import Row, SampleSpec
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.model_shape import Rope
from services.engine.tiny import save_tiny
from services.engine.weights import load_tensors
from tests.engine.reference_rule import Reference

ASK = SampleSpec(0.0, 0)


def logits_of(model: Model, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits after every prefix of `ids`: the prompt's first half as one chunk, then one token a step."""
    dtype = torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    shape = model.shape
    pool = PagedKvPool(shape.num_layers, 12, shape.kv_heads, 4, shape.head_dim, dtype)
    table = (3, 7, 1, 0, 2, 11, 5, 6, 4, 8, 9, 10)
    found = []
    with torch.inference_mode():
        for start, stop in [(0, 20), *((at, at + 1) for at in range(20, len(ids)))]:
            row = Row("r", ids[start:stop], start, table, ASK)
            found.append(model.forward(build([row], shape, pool), pool)[0])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tied": True, "heads": 8, "kv_heads": 1, "head_dim": 32}),
        ("MistralForCausalLM", {"kv_heads": 4}),
        ("Qwen2ForCausalLM", {"qkv_bias": True}),
        ("Qwen3ForCausalLM", {"qk_norm": True, "head_dim": 32, "rope": Rope(1e6)}),
    ],
)
def test_logits_match_transformers(tmp_path: Path, architecture: str, options: dict[str, object]) -> None:
    written = save_tiny(tmp_path, seed=3, architecture=architecture, **options)
    shape, tensors = load_tensors(tmp_path)
    assert shape == written
    ids = tuple((11 * position + 5) % shape.vocab for position in range(40))
    expected = Reference(tmp_path).logits(ids)[19:]
    for dtype, bound in [("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 0.5)]:
        ours = logits_of(Model(shape, tensors, dtype), ids)
        assert (ours - expected).abs().max() < bound * expected.abs().max(), dtype


def test_a_step_without_samples_only_writes_kv(tiny: Model) -> None:
    shape = tiny.shape
    pool = PagedKvPool(shape.num_layers, 4, shape.kv_heads, 16, shape.head_dim, torch.float32)
    with torch.inference_mode():
        logits = tiny.forward(build([Row("r", (1, 2, 3), 0, (2,), None)], shape, pool), pool)
    assert logits.shape == (0, shape.vocab)
    written = pool.data.abs().amax((0, 1, 3, 5))  # [blocks, positions]
    assert (written[2, :3] > 0).all() and not written[2, 3:].any() and not written[[0, 1, 3]].any()


def test_loaded_weights_leave_the_file_unmapped(tmp_path: Path) -> None:
    """Only the embedding table may stay mapped once the model is made: the rest was repacked."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_tiny(tmp_path, hidden=256, ffn=2048, head_dim=64)
        shape, tensors = load_tensors(tmp_path)
        model = Model(shape, tensors, "float32")
        del tensors
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len({tuple(line[:1]) for line in mapped}) <= 1, mapped
    assert model.shape == shape
