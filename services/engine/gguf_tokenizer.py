"""The tokenizer inside a .gguf file as Hugging Face's files: tokenizer.json, tokenizer_config.json, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.core.errors import ModelError
from services.engine.gguf_config import Metadata

# Pre-tokenizers of byte-level BPE that are GPT-2's pattern; any other kind goes through transformers, which is slower.
GPT2_PATTERNS = ("gpt-2", "default", "smollm")
CONTROL_TOKEN = 3


def write_tokenizer(metadata: Metadata, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template.

    Raises:
        ModelError: the file's kind of tokenizer is not read.
    """
    kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind[0] != "gpt2" or kind[1] not in GPT2_PATTERNS:
        _through_transformers(metadata, folder)
        return
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens: list[str] = metadata.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    kinds = metadata.get("tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind_of in zip(tokens, kinds, strict=True) if kind_of == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    special = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
    known = {name: metadata.get(f"tokenizer.ggml.{key}", optional=True) for name, key in special.items()}
    begin, end = (
        [(tokens[index], index)]
        if index is not None and metadata.get(f"tokenizer.ggml.add_{name}_token", False)
        else []
        for name, index in (("bos", known["bos_token"]), ("eos", known["eos_token"]))
    )
    if begin or end:
        around = [token for token, _ in begin] + ["$A"] + [token for token, _ in end]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=begin + end)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", False),
            "clean_up_tokenization_spaces": False,
            "model_max_length": metadata.get("{arch}.context_length"),
            **{name: tokens[index] for name, index in known.items() if index is not None},
            "chat_template": metadata.get("tokenizer.chat_template", ""),
        },
    )


def _through_transformers(metadata: Metadata, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(metadata.source.parent, gguf_file=metadata.source.name)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the library raises whatever its own converters run into
        kind = metadata.get("tokenizer.ggml.model")
        raise ModelError(
            f"{metadata.source}: its tokenizer (tokenizer.ggml.model = {kind!r}) cannot be read: {error}; serve the "
            "model's Hugging Face folder"
        ) from error


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Indented, with sorted keys."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
