"""How our greedy output is held against the transformers library (architecture section 7)."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

TIE_GAP = 1e-3
PROMPTS = (
    "What is the capital of France? Answer in one sentence.",
    "Write a haiku about the sea.",
    "Explain what a cache is to a child.",
    "List three fruits.",
    "Why is the sky blue?",
    "Translate 'good morning' into Spanish.",
    "What is 17 plus 25?",
    "Name the largest planet of the solar system and say something about it.",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
    "Write a Python function that adds two numbers.",
    "Summarise in one line: the quick brown fox jumps over the lazy dog, again and again, until both are tired.",
    "What should I pack for a rainy week in the mountains?",
    "Continue the story: The lighthouse keeper heard a knock at midnight.",
    "How do bees make honey?",
    "Compare trains and planes.",
    "What does HTTP stand for?",
    "Invent a name for a robot that paints.",
    "Tell me a fact about the year 1969, please.",
    "How many legs do 12 spiders have? Think step by step.",
)


@dataclass(frozen=True)
class Divergence:
    """A position where the reference, given the same prefix, prefers another token."""

    index: int
    ours: int
    theirs: int
    gap: float

    def __str__(self) -> str:
        return f"output {self.index}: ours {self.ours}, reference {self.theirs}, reference top-2 gap {self.gap:.2e}"


class Reference:
    """The transformers model of a folder in float32, and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers import AutoModelForCausalLM, AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def chat_prompt(self, text: str) -> tuple[int, ...]:
        """Ids of one user message under the model's chat template."""
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return tuple(self.tokenizer(rendered, add_special_tokens=False).input_ids)

    def logits(self, ids: tuple[int, ...]) -> torch.Tensor:
        """[tokens, vocab] float32."""
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.model(torch.tensor([ids])).logits[0]

    def divergences(self, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> list[Divergence]:
        """Every output token that the reference would not have chosen after the same prefix (teacher-forced)."""
        return divergences_from(self.logits((*prompt, *tokens[:-1]))[len(prompt) - 1 :], tokens)


def divergences_from(logits: torch.Tensor, tokens: tuple[int, ...]) -> list[Divergence]:
    """Every token that the reference's logits [tokens, vocab], given the same prefixes, would not have chosen."""
    found = []
    for index, (row, ours) in enumerate(zip(logits, tokens, strict=True)):
        best = row.topk(2)
        if int(best.indices[0]) != ours:
            found.append(Divergence(index, ours, int(best.indices[0]), float(best.values[0] - best.values[1])))
    return found


def assert_rule(by_prompt: dict[str, list[Divergence]]) -> None:
    """Fail on a divergence that is no near-tie, or when more than 5 % of the sequences diverge at all."""
    lines = [f"{prompt!r}: {one}" for prompt, found in by_prompt.items() for one in found]
    wrong = [f"{prompt!r}: {one}" for prompt, found in by_prompt.items() for one in found if one.gap >= TIE_GAP]
    assert not wrong, wrong
    assert sum(bool(found) for found in by_prompt.values()) <= 0.05 * len(by_prompt), lines
