"""Text to token ids and back: Hugging Face tokenizer files, chat template, and a detokenizer for streams."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from services.core.clock import Clock, WallClock
from services.core.errors import ModelError
from services.frontdoor.chat_template import Chat, ChatTemplate

SPECIAL_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""What templates may call the special tokens."""


class Tokenizer:
    """The tokenizer of one model folder; safe to use from several threads.

    Attributes:
        vocab_size: ids are below this, added tokens included.
        eos_token_id: the end token that the tokenizer names, or None; the model's own files may name others.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        """Load tokenizer.json, tokenizer_config.json and the template beside them; `clock` is for the template.

        Raises:
            ModelError: a file is missing or not understood; the message names it.
        """
        file = folder / "tokenizer.json"
        spec = read_json(file)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{file}: {error}; use a tokenizer.json of the `tokenizers` library") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        settings = read_json(folder / "tokenizer_config.json", required=False)
        if "added_tokens_decoder" not in settings:  # older folders name the special tokens in a file of their own
            settings |= read_json(folder / "special_tokens_map.json", required=False)
        names = {key: token_name(settings.get(key)) for key in SPECIAL_NAMES}
        self._special_names = {key: name for key, name in names.items() if name is not None}
        self._template = ChatTemplate(folder, settings, self._special_names, clock or WallClock())
        self._pieces = TokenBytes(file, spec, self._tokenizer)
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos_token_id = self._tokenizer.token_to_id(self._special_names.get("eos_token", ""))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, with the special tokens that the model wants around a prompt."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=True).ids)

    def encode_chat(self, messages: Chat) -> tuple[int, ...]:
        """Ids of a conversation up to the point where the assistant is to speak."""
        return tuple(self._tokenizer.encode(self.render(messages), add_special_tokens=False).ids)

    def render(self, messages: Chat) -> str:
        """The chat template's text for a conversation.

        Raises:
            InvalidRequestError: there is no template, or it refuses these messages.
        """
        return self._template.render(messages)

    def spell(self, token_id: int) -> tuple[str, bytes]:
        """One token alone: its text, with U+FFFD for bytes that are no whole character, and its bytes.

        A special token has a name and no bytes; an id that is not in the vocabulary has neither.
        """
        piece = self._pieces.of(token_id)
        return (piece.decode(errors="replace") if piece else self._tokenizer.id_to_token(token_id) or ""), piece

    def detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one output."""
        return Detokenizer(self._pieces)


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON object from a file; {} when it is not there and not required.

    Raises:
        ModelError: missing, or not a JSON object.
    """
    if not path.is_file():
        if required:
            raise ModelError(f"{path}: no such file; the model folder needs it (Hugging Face layout)")
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: a JSON object is needed, found {type(data).__name__}")
    return data


def token_name(entry: object) -> str | None:
    """A special token's text; files give it as a string or as {"content": ...}."""
    found = entry.get("content") if isinstance(entry, dict) else entry
    return found if isinstance(found, str) else None


class TokenBytes:
    """The UTF-8 bytes that each token id stands for.

    Two kinds of vocabulary are known: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM: a letter for each byte) and
    SentencePiece with byte fallback (Llama 2, Mistral, Gemma: "▁" for a space, "<0xE2>" for a lone byte).

    Attributes:
        strips_first_space: the decoder drops one space at the start of an output.
    """

    def __init__(self, file: Path, spec: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> None:
        decoder = spec.get("decoder") or {}
        steps = {step["type"]: step for step in decoder.get("decoders", [decoder] if decoder else [])}
        self._byte_level = "ByteLevel" in steps
        if not self._byte_level and not {"ByteFallback", "Metaspace"} & set(steps):
            known = "ByteLevel, ByteFallback or Metaspace"
            raise ModelError(f"{file}: decoder {sorted(steps)} is not known here; it must use {known}")
        self.strips_first_space = (
            "Strip" in steps or steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
        )
        self._tokenizer = tokenizer
        self._special = frozenset(token["id"] for token in spec.get("added_tokens", ()) if token.get("special"))
        self._byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
        self._known: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """The bytes of one token; b"" for special tokens and for ids that are not in the vocabulary."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._spell(token_id)
        return found

    def _spell(self, token_id: int) -> bytes:
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None or token_id in self._special:
            return b""
        if self._byte_level:
            spelled = [self._byte_of.get(letter) for letter in piece]
            # An added token is plain text and may have letters that stand for no byte.
            return piece.encode() if None in spelled else bytes(byte for byte in spelled if byte is not None)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes.fromhex(piece[3:5])
        return piece.replace("▁", " ").encode()


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself when it is visible, else one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


class Detokenizer:
    """Turns the ids of one output into text as they come, holding back the bytes of a character that is not complete.

    The pieces joined are the text of all ids together; bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, pieces: TokenBytes) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = pieces.strips_first_space

    def push(self, token_ids: Sequence[int]) -> str:
        """Text that became complete with these ids; may be empty."""
        return self._strip(self._utf8.decode(b"".join(map(self._pieces.of, token_ids))))

    def flush(self) -> str:
        """What is left at the end of the output: U+FFFD for a character that was cut, else nothing."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text
