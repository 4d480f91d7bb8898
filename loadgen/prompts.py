"""Prompts of exact length with the sharing that a trace asks for, the same bytes in every process.

    block id ──BLAKE2b in counter mode──► numbers ──► ids of the vocabulary's safe tokens ──► token ids, or text

A block id stands for a block and all before it, so equal ids give equal tokens and a prefix cache sees exactly the
sharing of the trace. Safe tokens survive decoding and encoding in any order, so that text has the same length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from loadgen.schedule import Prompt
from loadgen.survey import PrefixTree
from services.core.errors import ConfigError
from services.core.workload import WorkloadRow

DIGEST_WORDS = 16  # 32-bit words in a BLAKE2b digest
SMALLEST_TOKEN_ID = 1000  # below are special and single-byte tokens in common vocabularies
SAFE_WORD = re.compile(r" [A-Za-z]{2,12}")
ENOUGH_WORDS = 256
CHECKED_WORDS = 4096


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that prompts are made of.

    Attributes:
        ids: int32, [tokens].
        texts: of each id, to join without a separator; empty where only ids are sent.
    """

    ids: NDArray[np.int32]
    texts: tuple[str, ...] = ()


def plain_vocabulary(vocab_size: int = 32_000) -> Vocabulary:
    """Ids alone, for targets that take token ids and a tokenizer that nobody has at hand.

    Raises:
        ConfigError: a vocabulary too small to be one.
    """
    if vocab_size <= 2 * SMALLEST_TOKEN_ID:
        raise ConfigError("--vocab-size", vocab_size, f"must be above {2 * SMALLEST_TOKEN_ID}")
    return Vocabulary(np.arange(SMALLEST_TOKEN_ID, vocab_size, dtype=np.int32))


def safe_vocabulary(path: Path) -> Vocabulary:
    """The tokens of a tokenizer that are a space and a word, each of which stays one token in any company.

    Args:
        path: `tokenizer.json`, or the folder that it is in.

    Raises:
        ConfigError: no such file, not a tokenizer, or one that keeps too few words apart.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError("--tokenizer", str(file), f"{error}; name a tokenizer.json or its folder") from None
    every = sorted(tokenizer.get_vocab(with_added_tokens=False).values())
    texts = tokenizer.decode_batch([[each] for each in every], skip_special_tokens=False)
    words = [(each, text) for each, text in zip(every, texts, strict=True) if SAFE_WORD.fullmatch(text)]
    again = tokenizer.encode_batch([text for _, text in words], add_special_tokens=False)
    words = [word for word, back in zip(words, again, strict=True) if back.ids == [word[0]]]
    vocabulary = Vocabulary(np.array([each for each, _ in words], dtype=np.int32), tuple(text for _, text in words))
    if len(words) < ENOUGH_WORDS or not _survives(tokenizer, vocabulary):
        fix = "its words do not stay single tokens in a text; send token ids (no --text)"
        raise ConfigError("--tokenizer", str(file), fix)
    return vocabulary


def _survives(tokenizer: tokenizers.Tokenizer, vocabulary: Vocabulary) -> bool:
    """Whether a long text of safe words is encoded to the ids that it was made of."""
    places = _numbers("check", CHECKED_WORDS) % len(vocabulary.ids)
    text = "".join(vocabulary.texts[place] for place in places)
    return bool(tokenizer.encode(text, add_special_tokens=False).ids == vocabulary.ids[places].tolist())


def _numbers(key: str, count: int) -> NDArray[np.uint32]:
    """`count` numbers that depend on `key` alone: BLAKE2b of the key and a counter."""
    base = hashlib.blake2b(key.encode())
    digests = []
    for counter in range(-(-count // DIGEST_WORDS)):
        each = base.copy()
        each.update(counter.to_bytes(8, "little"))
        digests.append(each.digest())
    return np.frombuffer(b"".join(digests), dtype="<u4")[:count]


@dataclass(frozen=True, slots=True)
class PromptMaker:
    """Makes the prompt of a row; picklable, and the same in every process and under every PYTHONHASHSEED.

    Attributes:
        vocabulary: what prompts are made of.
        seed: another one gives other prompts with the same sharing.
        as_text: make text, for targets that take no token ids.
    """

    vocabulary: Vocabulary
    seed: int = 0
    as_text: bool = False

    def __post_init__(self) -> None:
        if self.as_text and not self.vocabulary.texts:
            raise ConfigError("--text", True, "needs --tokenizer: text is made of the tokens of one")

    def places(self, row: WorkloadRow, own: str) -> NDArray[np.uint32]:
        """Where in the vocabulary the prompt's tokens are: uint32, [input_tokens]."""
        size, parts, have = row.prefix_block_tokens, [], 0
        for block in row.prefix:
            if have >= row.input_tokens:
                break
            count = min(size, row.input_tokens - have)
            parts.append(_numbers(f"{self.seed}/block/{size}/{block}", count))
            have += count
        if have < row.input_tokens:
            parts.append(_numbers(f"{self.seed}/own/{own}", row.input_tokens - have))
        found: NDArray[np.uint32] = np.concatenate(parts) % np.uint32(len(self.vocabulary.ids))
        return found

    def token_ids(self, row: WorkloadRow, own: str) -> list[int]:
        """The prompt as token ids.

        Args:
            row: how long it is and which blocks it begins with.
            own: names what is the row's alone, after its blocks.
        """
        ids: list[int] = self.vocabulary.ids[self.places(row, own)].tolist()
        return ids

    def prompt(self, row: WorkloadRow, own: str) -> Prompt:
        """The prompt as the target takes it."""
        if not self.as_text:
            return self.token_ids(row, own)
        return "".join(self.vocabulary.texts[place] for place in self.places(row, own))


def block_chain(token_ids: Sequence[int], block_tokens: int) -> tuple[int, ...]:
    """Ids of the blocks of real tokens, each of which stands for all tokens up to its end; a partial last one too."""
    tokens = np.asarray(token_ids, dtype="<i4")
    chain = hashlib.blake2b(digest_size=8)
    found = []
    for start in range(0, len(tokens), block_tokens):
        part = tokens[start : start + block_tokens]
        chain.update(part.tobytes())
        found.append(int.from_bytes(chain.digest(), "little"))
    return tuple(found)


def oracle_hits(rows: Iterable[WorkloadRow]) -> PrefixTree:
    """What an unbounded exact prefix cache would find if the rows came one after another; told before sending."""
    tree = PrefixTree()
    for row in rows:
        tree.add(row.prefix)
    return tree
