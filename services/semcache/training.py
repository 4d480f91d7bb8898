"""Trains the judge of questions from `pairs/`: `python -m services.semcache.training` writes `judge.safetensors`.

`pairs/*.txt` hold groups of wordings that one answer serves, and look-alikes ("! ...") that need another one, written
for Triptych (Apache-2.0, as the code). `held.txt` is by another author, and only measured. The judge is MiniLM over two
questions at once. All its layers learn, in bfloat16 beside float32 copies that take the changes (arXiv 1710.03740); of
each matrix's change its largest singular values are kept, a quarter of the numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from services.core.seeds import RandomStream, stream
from services.semcache.embedder import LEARNED, MiniLm, bundled_embedder

PAIRS = Path(__file__).with_name("pairs")
HELD = "held.txt"
WORD = re.compile(r"\w+")
MAX_TOKENS = 64
"""Of a question while it trains; hardly any is longer."""
POSITIVES, LOOK_ALIKES, STRANGERS = 2, 3, 8
"""Pairs of a group in each pass that have one answer and that have two; one pair of two groups for so many groups."""
IN_ONE, IN_BOTH = 2, 1
"""Pairs of a group in each pass of which a word that both have is replaced, in one of them or in both."""
COMMON = 70
"""Most frequent words, which are never replaced."""
NEAR = slice(2, 40)
"""Which of the nearest words take another one's place: the first ones may mean the same."""
SAVE_EVERY = 500
"""Steps after which what was learned so far is written."""
WIDTHS = 8
"""Tokens of a batch are a multiple of it: matrices of few shapes, for each costs time when it is seen first."""
POOL = 8
"""Batches that are sorted by length together."""
Example = tuple[str, str, float]
"""Two questions, and 1 where one answer serves both."""


@dataclass(frozen=True, slots=True)
class Group:
    """Wordings of one question, and questions that look like it."""

    same: tuple[str, ...]
    other: tuple[str, ...]


def groups(text: str) -> list[Group]:
    """Groups apart by empty lines; lines that begin with "!" need another answer."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        same = tuple(line for line in lines if not line.startswith("!"))
        found.append(Group(same, tuple(line[1:].strip() for line in lines if line.startswith("!"))))
    return [group for group in found if len(group.same) > 1]


class Replacements:
    """Other words for words, numbers for numbers: what two wordings share decides, whatever it is.

    A word that is replaced in one of two wordings makes a look-alike of it; in both, wordings of another question.
    """

    def __init__(self, found: Sequence[Group], embed: Callable[[str], Any]) -> None:
        counts = Counter(word for group in found for text in group.same for word in set(WORD.findall(text.lower())))
        common = {word for word, _ in counts.most_common(COMMON)}
        self._words = [word for word, count in sorted(counts.items()) if count > 1 and len(word) > 2]
        self._words = [word for word in self._words if word not in common and word.isalpha()]
        vectors = np.stack([embed(word) for word in self._words])
        nearest = np.argsort(-(vectors @ vectors.T), axis=1)[:, : NEAR.stop]
        self._near = {word: [self._words[at] for at in row] for word, row in zip(self._words, nearest, strict=True)}

    def pair(self, one: str, two: str, both: bool, draws: RandomStream) -> tuple[str, str] | None:
        """The pair with a word of both replaced; None where they share none."""
        words = [WORD.findall(text) for text in (one, two)]
        once = [{word.lower() for word in each if each.count(word) == 1} for each in words]
        named = {word.lower() for word in words[0][1:] if word[0].isupper()}
        shared = [word for word in sorted(once[0] & once[1]) if word in self._near or word.isdigit()]
        if both:
            shared = [word for word in shared if word in named or word.isdigit() or draws.random() < 0.3]
        if not shared:
            return None
        word = draws.choice(shared)
        other = self._other(word, draws)
        texts = [_replaced(text, word, other) for text in (one, two)]
        if both:
            return texts[0], texts[1]
        changed = draws.randint(0, 1)
        return (texts[0], two) if changed == 0 else (one, texts[1])

    def _other(self, word: str, draws: RandomStream) -> str:
        if word.isdigit():
            number = int(word[:12])
            return str(draws.choice([number + 1, max(number - 1, 0), number * 2, number + draws.randint(2, 90)]))
        near = [each for each in self._near[word][NEAR] if each[:4] != word[:4]]
        chosen: str = draws.choice(near or self._words)
        return chosen


def _replaced(text: str, word: str, other: str) -> str:
    def put(found: re.Match[str]) -> str:
        return other.capitalize() if found.group(0)[0].isupper() else other

    return re.sub(rf"\b{re.escape(word)}\b", put, text, flags=re.IGNORECASE)


def examples(found: Sequence[Group], draws: RandomStream, words: Replacements | None = None) -> Iterator[Example]:
    """Pairs of all groups, again and again, in another order each time."""
    while True:
        passed: list[Example] = []
        shuffled = draws.sample(found, len(found))
        for place, group in enumerate(shuffled):
            for _ in range(POSITIVES):
                one, two = draws.sample(group.same, 2)
                passed.append((one, two, 1.0))
            for _ in range(LOOK_ALIKES if group.other else 0):
                pair = [draws.choice(group.same), draws.choice(group.other)]
                one, two = draws.sample(pair, 2)
                passed.append((one, two, 0.0))
            for both in (False,) * IN_ONE + (True,) * IN_BOTH if words is not None else ():
                first, second = draws.sample(group.same, 2)
                changed = words.pair(first, second, both, draws) if words is not None else None
                if changed is not None and changed[0] != changed[1]:
                    passed.append((*changed, float(both)))
            if place % STRANGERS == 0:
                passed.append((draws.choice(group.same), draws.choice(shuffled[place - 1].same), 0.0))
        yield from draws.sample(passed, len(passed))


class Learner(nn.Module):
    """The judge while it learns.

    Args:
        folder: of the embedder.
        learned: what to begin with, as `learned` gives it; None: as the embedder is.
    """

    def __init__(self, folder: Path, learned: dict[str, Tensor] | None = None) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        super().__init__()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        # sdpa takes twice as long backwards on a CPU
        self.bert = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")
        for module in self.bert.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        self.bert.embeddings.position_embeddings.weight.requires_grad_(False)
        self._begun = {_plain(name): each.detach().clone() for name, each in self.changing()}
        self.dropout = nn.Dropout(0.1)
        self.judge = nn.Linear(2 * self.bert.config.hidden_size, 1)
        nn.init.normal_(self.judge.weight, std=0.02)
        self.ids = lru_cache(maxsize=2**18)(self._ids)
        if learned is not None:
            self._take(learned)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text).ids)

    def size(self, one: str, two: str) -> int:
        """Tokens of a pair."""
        return len(self.ids(one)) + len(self.ids(two)) - 1

    def forward(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Logits of one answer for both, [len(pairs)]."""
        longest = -(-max(self.size(one, two) for one, two in pairs) // WIDTHS) * WIDTHS
        ids, places, side = (np.zeros((len(pairs), longest), np.int64) for _ in range(3))
        seen = np.zeros((len(pairs), longest), np.float32)
        for row, (first, second) in enumerate(pairs):
            one, two = self.ids(first), self.ids(second)[1:]
            end = len(one) + len(two)
            ids[row, :end] = one + two
            places[row, :end] = (*range(len(one)), *range(1, len(two) + 1))
            side[row, len(one) : end] = 1
            seen[row, :end] = 1
        where = {"token_type_ids": torch.from_numpy(side), "position_ids": torch.from_numpy(places)}
        mask = torch.from_numpy(seen)
        hidden = self.bert(torch.from_numpy(ids), attention_mask=mask, **where).last_hidden_state.float()
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)  # (pairs, dim)
        logits: Tensor = self.judge(self.dropout(torch.cat((mean, hidden[:, 0]), -1)))[:, 0]
        return logits

    def learned(self, rank: int) -> dict[str, Tensor]:
        """What differs from the embedder, by the names of its checkpoint, in float16; matrices to a rank."""
        found = {}
        for name, each in ((_plain(name), each.detach().float()) for name, each in self.changing()):
            if each.dim() < 2 or min(each.shape) <= rank:
                found[name] = each.half()
                continue
            left, values, right = torch.linalg.svd(each - self._begun[name], full_matrices=False)
            root = values[:rank].sqrt()
            found[f"{name}.up"] = (left[:, :rank] * root).half().contiguous()
            found[f"{name}.down"] = (root[:, None] * right[:rank]).half().contiguous()
        return found

    def changing(self) -> list[tuple[str, nn.Parameter]]:
        """What learns, by name."""
        return [(name, each) for name, each in self.named_parameters() if each.requires_grad]

    @torch.no_grad()
    def _take(self, learned: dict[str, Tensor]) -> None:
        for name, each in self.changing():
            plain = _plain(name)
            if f"{plain}.up" in learned:
                each.add_(learned[f"{plain}.up"].float() @ learned[f"{plain}.down"].float())
            else:
                each.copy_(learned[plain])


def _plain(name: str) -> str:
    """Of a parameter, in the embedder's checkpoint."""
    return name.removeprefix("bert.")


@torch.no_grad()
def logits(learner: Learner, pairs: Sequence[tuple[str, str]], batch: int = 256) -> Tensor:
    """As the judge says them: [len(pairs)], the mean of both orders."""
    learner.eval()
    order = sorted(range(len(pairs)), key=lambda at: learner.size(*pairs[at]))
    found = torch.zeros(len(pairs))
    for start in range(0, len(order), batch):
        at = order[start : start + batch]
        chosen = [pairs[each] for each in at]
        found[at] = (learner(chosen) + learner([pair[::-1] for pair in chosen])) / 2
    learner.train()
    return found


def measured(learner: Learner, found: Sequence[Group]) -> str:
    """Wordings that are accepted while so many of a thousand look-alikes are, for some such shares."""
    same = [(one, two) for group in found for one in group.same for two in group.same if one < two]
    other = [(one, two) for group in found for one in group.same for two in group.other]
    yes, no = logits(learner, same), logits(learner, other).sort(descending=True).values
    shares = []
    for wrong in (0, 1, 3, 10, 30):
        least = float(no[len(other) * wrong // 1000])
        shares.append(f"{wrong}: {(yes > least).float().mean():.0%} (sure {1 / (1 + math.exp(-least)):.4f})")
    return f"{len(same)} pairs accepted while of 1,000 look-alikes {', '.join(shares)}"


def batches(source: Iterator[Example], size: int, learner: Learner, draws: RandomStream) -> Iterator[list[Example]]:
    """Examples of about one length together, in any order."""
    while True:
        pool = sorted((next(source) for _ in range(POOL * size)), key=lambda each: learner.size(each[0], each[1]))
        yield from draws.sample([pool[at : at + size] for at in range(0, len(pool), size)], POOL)


def train(
    learner: Learner,
    found: Sequence[Group],
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    progress: Progress,
    save: Callable[[], None] = lambda: None,
    words: Replacements | None = None,
) -> None:
    """AdamW on binary cross-entropy; the rate rises for a while, and falls in a line to a fiftieth."""
    learner.train()
    weights = [each for _, each in learner.changing()]
    whole = [each.detach().clone() for each in weights]  # float32
    learner.bert.bfloat16()
    optimiser = torch.optim.AdamW(whole, lr=rate, weight_decay=0.01, fused=True)
    draws = stream(seed, "semcache/training")
    drawn = batches(examples(found, draws, words), batch, learner, draws)
    task, mean, rising = progress.add_task("training", total=steps, loss=0.0), 0.7, min(200, steps // 10 + 1)
    for step in range(steps):
        chosen = next(drawn)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / rising) * max(0.02, 1 - step / steps)
        told = learner([(one, two) for one, two, _ in chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(told, torch.tensor([each[2] for each in chosen]))
        learner.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for full, each in zip(whole, weights, strict=True):
            assert each.grad is not None, "every layer has a part in the logit"
            full.grad = each.grad.float()
        nn.utils.clip_grad_norm_(whole, 1.0)
        optimiser.step()
        _put(whole, weights)
        mean += 0.02 * (loss.item() - mean)
        progress.update(task, advance=1, loss=mean)
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            save()
    learner.float()
    _put(whole, weights)
    save()


@torch.no_grad()
def _put(values: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    for value, weight in zip(values, weights, strict=True):
        weight.copy_(value)


def main(
    steps: Annotated[int, typer.Option(help="Batches; 6,500 take an hour on two cores with AMX.")] = 6500,
    batch: Annotated[int, typer.Option(help="Pairs of a step.")] = 192,
    rate: Annotated[float, typer.Option(help="Learning rate at its highest.")] = 1e-4,
    rank: Annotated[int, typer.Option(help="Of what is kept of each matrix's change.")] = 64,
    seed: Annotated[int, typer.Option(help="Of order and first weights.")] = 1,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    start: Annotated[Path | None, typer.Option(help="Learn on from such a file; None: from the embedder.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = LEARNED,
) -> None:
    """Train the judge, measure it on pairs/held.txt and write it."""
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    console = Console()
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAIRS.glob("*.txt"))}
    held = groups(texts.pop(HELD))
    found = [group for text in texts.values() for group in groups(text)]
    learner = Learner(bundled_embedder(), None if start is None else load_file(start))
    words = Replacements(found, MiniLm(bundled_embedder()).embed)
    console.print(f"{len(found)} groups to learn from, {len(held)} to measure")
    columns: tuple[Any, ...] = (*Progress.get_default_columns(), "loss {task.fields[loss]:.3f}")
    with Progress(*columns, console=console) as progress:
        train(learner, found, steps, batch, rate, seed, progress, lambda: save_file(learner.learned(rank), out), words)
    console.print(measured(learner, held))
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
