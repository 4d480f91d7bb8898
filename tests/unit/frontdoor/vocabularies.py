"""Two small model folders: a byte-level vocabulary like SmolLM2's and a SentencePiece-like one with byte fallback."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from services.frontdoor.tokenizer import byte_letters

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_folder(folder: Path, template: str | None = TEMPLATE) -> Path:
    """256 byte letters, two merges (the first cuts the character é in the middle), three special tokens."""
    letters = byte_letters()
    space_c3, he = letters[0x20] + letters[0xC3], "he"
    vocabulary = {name: index for index, name in enumerate([*SPECIAL, *letters, space_c3, he])}
    merges = [(letters[0x20], letters[0xC3]), ("h", "e")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return write_folder(folder, tokenizer, "<|im_end|>", template)


def byte_fallback_folder(folder: Path) -> Path:
    """A few pieces with "▁" for the space, and one token for each byte."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "é"]
    vocabulary = {name: index for index, name in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return write_folder(folder, tokenizer, "</s>", None)


def write_folder(folder: Path, tokenizer: tokenizers.Tokenizer, eos: str, template: str | None) -> Path:
    """Files as a Hugging Face folder has them, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": {"content": "<s>"}, "eos_token": eos}
    write_json(folder / "tokenizer_config.json", settings | ({"chat_template": template} if template else {}))
    write_json(folder / "config.json", SHAPE | {"vocab_size": tokenizer.get_vocab_size()})
    return folder


def write_json(path: Path, data: object) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(data), encoding="utf-8")
