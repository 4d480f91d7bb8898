"""GGUF conversion: equal to the original weights and to transformers' reading, once, safe against two starters."""

import json
import math
import threading
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from services.core.errors import ModelError
from services.engine import gguf_convert
from services.engine.checkpoint import prepare_model, read_shape
from services.engine.model import Model
from services.engine.model_shape import Rope
from services.engine.tiny import CHAT_TEMPLATE, SENTENCES, tiny_model, train_tokenizer
from services.engine.weights import load_tensors
from tests.engine.families import expected_logits, logits_at_ends, prompt_of, save_family
from tests.engine.gguf_files import write_gguf

Q8 = gguf.GGMLQuantizationType.Q8_0
YARN = Rope(1e4, "yarn", 4.0, 64, attention_factor=0.1 * math.log(4.0) + 1)


def write_tiny(file: Path, drop: str = "", extra: str = "", **options: Any) -> dict[str, torch.Tensor]:
    """A tiny model as a file; `options` are for the shape and `write_gguf`. Returns its tensors."""
    names = ("family", "quantised", "pre")
    ours = {name: value for name, value in options.items() if name not in names and "__" not in name}
    shape, tensors = tiny_model(7, vocab=train_tokenizer().get_vocab_size(), **ours)
    rest = {name: value for name, value in options.items() if name not in ours}
    write_gguf(file, shape, tensors, drop=drop, extra=extra, **rest)
    return tensors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tied": True},
        {"heads": 3, "kv_heads": 1, "head_dim": 32},
        {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
        {"rope": Rope(1e4, "linear", 2.5)},
        {"rope": YARN},
        {"rope": replace(YARN, attention_factor=1.25, beta_fast=16.0)},
        {"architecture": "MistralForCausalLM", "window": 40, "windowed_layers": (0, 1)},
        {"architecture": "MistralForCausalLM", "family": "mistral"},
        {"architecture": "Qwen2ForCausalLM", "qkv_bias": True, "rope": YARN},
        {"architecture": "Qwen3ForCausalLM", "qk_norm": True, "head_dim": 32, "rope": Rope(1e6)},
    ],
)
def test_a_float_file_comes_back_bit_by_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    tensors = write_tiny(tmp_path / "Tiny.gguf", **options)
    folder = prepare_model(tmp_path / "Tiny.gguf", tmp_path / "cache")
    assert folder.parent == tmp_path / "cache" and folder.name.startswith("tiny-")
    options.pop("family", None)
    assert read_shape(folder) == tiny_model(7, vocab=read_shape(folder).vocab, **options)[0]
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_sixteen_bit_floats_are_kept_as_they_are(tmp_path: Path, kind: str) -> None:
    tensors = write_tiny(tmp_path / "tiny.gguf", quantised=gguf.GGMLQuantizationType[kind])
    converted = load_file(prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache") / "model.safetensors")
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    for name, values in tensors.items():
        stored = dtype if values.ndim == 2 else torch.float32
        assert converted[name].dtype == stored and torch.equal(converted[name], values.to(stored)), name


def test_a_quantised_file_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.gguf", quantised=Q8)
    converted = load_file(prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache") / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).state_dict()
    assert converted.keys() == theirs.keys()
    assert all(torch.equal(converted[name], theirs[name]) for name in converted)


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama-biased", "llama3"),
        ("llama", "yarn"),
        ("mistral-window", "default"),
        ("qwen2", "yarn"),
        ("qwen3", "linear"),
    ],
)
def test_a_converted_model_computes_what_the_original_does(tmp_path: Path, family: str, rope: str) -> None:
    theirs = save_family(tmp_path / "original", family, rope)
    shape, tensors = load_tensors(tmp_path / "original")
    write_gguf(tmp_path / "model.gguf", shape, tensors)
    model = Model(*load_tensors(prepare_model(tmp_path / "model.gguf", tmp_path / "cache")), "float32")
    ids = prompt_of(300)
    ends = [130, 257, *range(290, 301)]
    expected = expected_logits(theirs, ids)[[end - 1 for end in ends]]
    assert (logits_at_ends(model, ids, ends) - expected).abs().max() < 1e-4


def test_conversion_takes_memory_for_a_piece_not_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = write_tiny(tmp_path / "tiny.gguf", quantised=Q8, hidden=512, ffn=4096, tied=True)
    size = 4 * sum(values.numel() for values in tensors.values())
    monkeypatch.setattr(gguf_convert, "PIECE_BYTES", 2**18)
    prepare_model(tmp_path / "tiny.gguf", tmp_path / "warm")  # imports are no part of it
    tracemalloc.start()
    try:
        folder = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (folder / "model.safetensors").stat().st_size > size
    assert peak < size / 4, (peak, size)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.gguf")
    folder = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")
    original, converted = train_tokenizer(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*SENTENCES, "<|im_start|>user\nÜber 2024 naïve 東京 🙂<|im_end|>"):
        assert converted.encode(text).ids == original.encode(text).ids
        assert converted.decode(converted.encode(text).ids, skip_special_tokens=False) == text
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["chat_template"], config["eos_token"]) == (CHAT_TEMPLATE, "<|im_end|>")


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_other_patterns_go_through_transformers(tmp_path: Path, pre: str) -> None:
    write_tiny(tmp_path / "tiny.gguf", pre=pre, tokenizer__ggml__eot_token_id=0)
    folder = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")
    text = "<|im_start|>In 2024 it's 12345\n\n naïve 東京<|im_end|>"
    converted = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert converted.decode(converted.encode(text).ids, skip_special_tokens=False) == text
    assert converted.encode("<|im_end|>").ids[-1:] == [2]
    assert read_shape(folder).eos_token_ids == (2, 0)


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe"])
@pytest.mark.parametrize("added", [(), ("bos",), ("bos", "eos")])
def test_tokens_around_a_prompt_are_those_that_the_file_asks_for(
    tmp_path: Path, pre: str, added: tuple[str, ...]
) -> None:
    asked = {f"tokenizer__ggml__add_{name}_token": True for name in added}
    write_tiny(tmp_path / "tiny.gguf", pre=pre, **asked)
    folder = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Hello").ids
    plain = train_tokenizer().encode("Hello").ids
    assert ids == [1] * ("bos" in added) + plain + [2] * ("eos" in added)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.gguf", tokenizer__ggml__model="t5")
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.model = 't5'\) cannot be read: .*Hugging Face folder"):
        prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache")


def test_the_default_models_tokenizer_is_the_one_transformers_makes(smollm2_folder: Path) -> None:
    """Ids that transformers' own reading of the file gave for these texts."""
    converted = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    assert converted.encode("In 2024, 12345 cats").ids == [788, 216, 34, 32, 34, 36, 28, 216, 33, 34, 35, 36, 37, 7680]
    assert converted.encode("<|im_start|>").ids == [1]


def test_conversion_happens_once(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny.gguf")
    said: list[str] = []
    first = prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache", lambda what, _share: said.append(what))
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert any("converting" in what for what in said)
    said.clear()
    assert prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache", lambda what, _share: said.append(what)) == first
    assert said == ["the model is converted"] and (first / "model.safetensors").stat().st_mtime_ns == written
    write_tiny(tmp_path / "tiny.gguf", tied=True)
    assert prepare_model(tmp_path / "tiny.gguf", tmp_path / "cache") != first


def test_two_starters_convert_once_and_a_killed_one_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path / "tiny.gguf")
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
        (
            {"family": "gpt2"},
            "general.architecture = 'gpt2' is not served; choose a model with llama or mistral or qwen2",
        ),
        ({"drop": "blk.1.ffn_up.weight"}, r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        ({"drop": "token_embd.weight"}, r"tensor token_embd\.weight is missing"),
        (
            {"extra": "rope_freqs.weight", "rope": YARN},
            "rope_freqs.weight = '8 numbers' is not served; choose a model ",
        ),
        (
            {"llama__rope__scaling__type": "longrope"},
            r"llama\.rope\.scaling\.type = 'longrope' is not served; .* linear",
        ),
        ({"split__count": 3}, r"split\.count = 3 is not served; choose a model with all in one file"),
        ({"head_dim": 32, "llama__attention__value_length": 16}, r"llama\.attention\.value_length = 16 is not served"),
        ({"extra": "blk.0.ffn_gate_exps.weight"}, r"tensor blk\.0\.ffn_gate_exps\.weight belongs to no served"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_tiny(tmp_path / "bad.gguf", **options)
    with pytest.raises(ModelError, match=message):
        prepare_model(tmp_path / "bad.gguf", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_tiny(tmp_path / "whole.gguf")
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
