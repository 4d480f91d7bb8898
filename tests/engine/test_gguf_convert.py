"""GGUF conversion: equal to the original weights and to transformers' reading, once, safe against two starters."""

import json
import threading
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from services.core.errors import ModelError
from services.engine import gguf_convert
from services.engine.checkpoint import prepare_model, read_shape
from services.engine.tiny import CHAT_TEMPLATE, SENTENCES, SPECIAL_TOKENS, tiny_model, train_tokenizer

OURS_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    **{ours: theirs for theirs, ours in gguf_convert.LAYER_NAMES.items()},
}


def gguf_name(name: str) -> str:
    base, kind = name.rsplit(".", 1)
    if not base.startswith("model.layers."):
        return f"{OURS_TO_GGUF[base]}.{kind}"
    layer, part = base.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{OURS_TO_GGUF[part]}.{kind}"


def permuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a Q or K projection as Llama's GGUF files keep them: pairs side by side."""
    return values.view(heads, 2, -1, values.shape[-1]).transpose(1, 2).reshape(values.shape)


def write_gguf(
    file: Path,
    family: str = "llama",
    quantised: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    drop: str = "",
    extra: str = "",
    **options: Any,
) -> dict[str, torch.Tensor]:
    """A tiny model as a GGUF file; returns its tensors by Hugging Face's names."""
    tokenizer = train_tokenizer()
    shape, tensors = tiny_model(7, vocab=tokenizer.get_vocab_size(), **options)
    writer = gguf.GGUFWriter(file, family)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    model = json.loads(tokenizer.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL_TOKENS else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, values in tensors.items():
        heads = {"q_proj.weight": shape.heads, "k_proj.weight": shape.kv_heads}.get(name.split("attn.")[-1])
        stored = (permuted(values, heads) if heads and family == "llama" else values).numpy()
        kind = quantised if stored.ndim == 2 else gguf.GGMLQuantizationType.F32
        if gguf_name(name) != drop:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(stored, kind), raw_dtype=kind)
    if extra:
        writer.add_tensor(extra, np.zeros(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"tied": True}),
        ("qwen2", {"architecture": "Qwen2ForCausalLM", "qkv_bias": True}),
        ("qwen3", {"architecture": "Qwen3ForCausalLM", "qk_norm": True}),
    ],
)
def test_a_float_file_comes_back_bit_by_bit(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    tensors = write_gguf(tmp_path / "Tiny.gguf", family, **options)
    folder = prepare_model(tmp_path / "Tiny.gguf", tmp_path / "cache")
    assert folder.parent == tmp_path / "cache" and folder.name.startswith("tiny-")
    assert read_shape(folder) == tiny_model(7, vocab=read_shape(folder).vocab, **options)[0]
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensors[name]) for name in tensors)


def test_a_quantised_file_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", quantised=gguf.GGMLQuantizationType.Q8_0)
    converted = load_file(prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache") / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).state_dict()
    assert converted.keys() == theirs.keys()
    assert all(torch.equal(converted[name], theirs[name]) for name in converted)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    folder = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")
    original, converted = train_tokenizer(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*SENTENCES, "<|im_start|>user\nÜber 2024 naïve 東京 🙂<|im_end|>"):
        assert converted.encode(text).ids == original.encode(text).ids
        assert converted.decode(converted.encode(text).ids, skip_special_tokens=False) == text
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["chat_template"], config["eos_token"]) == (CHAT_TEMPLATE, "<|im_end|>")


def test_the_default_models_tokenizer_is_the_one_transformers_makes(smollm2_folder: Path) -> None:
    """Ids that transformers' own reading of the file gave for these texts."""
    converted = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    assert converted.encode("In 2024, 12345 cats").ids == [788, 216, 34, 32, 34, 36, 28, 216, 33, 34, 35, 36, 37, 7680]
    assert converted.encode("<|im_start|>").ids == [1]


def test_conversion_happens_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    said: list[str] = []
    first = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache", lambda what, _share: said.append(what))
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert any("converting" in what for what in said)
    said.clear()
    assert prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache", lambda what, _share: said.append(what)) == first
    assert said == ["the model is converted"] and (first / "model.safetensors").stat().st_mtime_ns == written
    write_gguf(tmp_path / "tiny.gguf", tied=True)
    assert prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache") != first


def test_two_starters_convert_once_and_a_killed_one_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    name = f"tiny-{gguf_convert.fingerprint(tmp_path / 'tiny.gguf')}"
    (cache / f".{name}.partial").mkdir(parents=True)
    (cache / f".{name}.partial" / "model.safetensors").write_text("half of a file")
    conversions: list[int] = []
    convert = gguf_convert._convert
    monkeypatch.setattr(gguf_convert, "_convert", lambda *args: (conversions.append(1), convert(*args)))
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(prepare_model(tmp_path / "tiny.gguf", cache))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1 and set(folders) == {cache / name}
    assert sorted(path.name for path in cache.iterdir()) == [f".{name}.lock", name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "gpt2"}, "architecture 'gpt2' is not served; choose one of llama"),
        ({"drop": "blk.1.ffn_up.weight"}, r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        ({"drop": "token_embd.weight"}, r"tensor token_embd\.weight is missing"),
        ({"extra": "rope_freqs.weight"}, "rotary scaling is not served"),
        ({"extra": "blk.0.ffn_gate_exps.weight"}, r"tensor blk\.0\.ffn_gate_exps\.weight belongs to no served"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    write_gguf(tmp_path / "bad.gguf", **options)
    with pytest.raises(ModelError, match=message):
        prepare_model(tmp_path / "bad.gguf", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf")
    whole = (tmp_path / "whole.gguf").read_bytes()
    for name, content in {
        "cut": whole[:3000],
        "noise": b"\x07" * 5000,
        "empty": b"",
        "half": whole[: len(whole) // 2],
    }.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}\.gguf: not a readable GGUF file .*; fetch it again"):
            prepare_model(tmp_path / f"{name}.gguf", tmp_path / "cache")
