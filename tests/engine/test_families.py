"""Every served family and rotary kind against the transformers library, beyond windows and original contexts."""

from pathlib import Path

import pytest
import torch

from services.core.batch import Row, SampleSpec
from services.engine.input_batch import build
from services.engine.kv_pool import PagedKvPool
from services.engine.model import Model
from services.engine.model_runner import digest_of
from services.engine.weights import load_tensors
from tests.engine.families import FAMILIES, ROPES, expected_logits, logits_at_ends, prompt_of, save_family
from tests.engine.one_request_loop import generate

CASES = [(family, "default") for family in FAMILIES] + [("llama", rope) for rope in ROPES if rope != "default"]
CASES += [("qwen2", "yarn"), ("qwen3-layer-types", "yarn"), ("mistral-window", "llama3")]
LENGTH = 300
# Chunks of all kinds: a long one, a single token, one that ends at a tile's border, then single tokens.
ENDS = [140, 141, 200, 256, *range(257, LENGTH + 1)]


@pytest.mark.parametrize(("family", "rope"), CASES)
def test_logits_and_greedy_tokens_are_those_of_transformers(tmp_path: Path, family: str, rope: str) -> None:
    theirs = save_family(tmp_path, family, rope)
    ours = Model(*load_tensors(tmp_path), "float32")
    ids = prompt_of(LENGTH)
    expected = expected_logits(theirs, ids)[[end - 1 for end in ENDS]]
    found = logits_at_ends(ours, ids, ENDS)
    assert expected.std() > 0.5  # else the bound below would say little
    difference = float((found - expected).abs().max())
    print(f"{family} {rope}: largest difference {difference:.1e}, standard deviation {float(expected.std()):.2f}")
    assert difference < 1e-4
    output = generate(ours, ids[:280], 12).tokens
    teacher = expected_logits(theirs, (*ids[:280], *output[:-1]))[279:]
    assert output == tuple(teacher.argmax(-1).tolist())


@pytest.mark.parametrize(
    ("family", "rope", "other_family", "other_rope"),
    [("llama", kind, "llama", "linear" if kind != "linear" else "default") for kind in ROPES]
    + [
        ("mistral-window", "default", "mistral", "default"),
        ("qwen2-upper-window", "yarn", "qwen2-unused-window", "yarn"),
    ],
)
def test_the_comparison_would_show_a_wrong_kind(
    tmp_path: Path, family: str, rope: str, other_family: str, other_rope: str
) -> None:
    """The same random weights under another rope or without the window give other logits."""
    right = save_family(tmp_path / "right", family, rope)
    wrong = save_family(tmp_path / "wrong", other_family, other_rope)
    ids = prompt_of(LENGTH)
    assert (expected_logits(right, ids) - expected_logits(wrong, ids))[-20:].abs().max() > 0.05


def test_dynamic_scaling_is_served_up_to_where_it_begins_and_says_so(tmp_path: Path) -> None:
    save_family(tmp_path, "llama", "dynamic")
    model = Model(*load_tensors(tmp_path), "float32")
    assert model.shape.max_position == 512
    assert "rope_type dynamic: served up to 512 tokens, where its frequencies are fixed" in model.notes


def test_a_model_saved_in_shards_is_the_same_model(tmp_path: Path) -> None:
    save_family(tmp_path / "one", "qwen2-upper-window")
    save_family(tmp_path / "many", "qwen2-upper-window", max_shard_size="100KB")
    assert (tmp_path / "many" / "model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    (shape, whole), (same_shape, sharded) = load_tensors(tmp_path / "one"), load_tensors(tmp_path / "many")
    assert shape == same_shape and whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.parametrize("family", ["mistral-window", "mistral-wide-window", "qwen2-upper-window"])
def test_windowed_models_give_the_same_bits_in_any_batch(tmp_path: Path, family: str) -> None:
    """Three requests that join one after another, chunked, against each alone in the plainest loop."""
    save_family(tmp_path, family)
    model = Model(*load_tensors(tmp_path), "float32")
    prompts = [prompt_of(length, seed) for seed, length in enumerate((300, 170, 40))]
    assert together(model, prompts, chunk=37) == [generate(model, prompt, 20).digests for prompt in prompts]


def together(model: Model, prompts: list[tuple[int, ...]], chunk: int, tokens: int = 20) -> list[tuple[str, ...]]:
    """Digests of each sampled row; request i joins at step 2 i and computes `chunk` prompt tokens a step."""
    shape, spec = model.shape, SampleSpec(0.0, 0)
    blocks = 24
    pool = PagedKvPool(shape.num_layers, blocks * len(prompts), shape.kv_heads, 16, shape.head_dim, torch.float32)
    known, done = [list(prompt) for prompt in prompts], [0] * len(prompts)
    digests: list[tuple[str, ...]] = [()] * len(prompts)
    step = 0
    while any(len(found) < tokens for found in digests):
        rows = []
        for index, prompt in enumerate(prompts):
            if step >= 2 * index and len(digests[index]) < tokens:
                ids = tuple(known[index][done[index] : max(done[index] + 1, min(done[index] + chunk, len(prompt)))])
                table = tuple(range(index, blocks * len(prompts), len(prompts)))
                ends = done[index] + len(ids) == len(known[index])
                rows.append((index, Row(str(index), ids, done[index], table, spec if ends else None)))
        with torch.inference_mode():
            logits = iter(model.forward(build([row for _, row in rows], shape, pool), pool))
        for index, row in rows:
            done[index] = row.end
            if row.sample is not None:
                found = next(logits)
                digests[index] += (digest_of(found),)
                known[index].append(int(found.argmax()))
        step += 1
    return digests
