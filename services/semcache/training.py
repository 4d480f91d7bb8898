"""Trains the judge of questions from `pairs/`: `python -m services.semcache.training` writes `judge.safetensors`.

`pairs/*.txt` hold groups of wordings that one answer serves, and look-alikes ("! ...") that need another one, written
for Triptych (Apache-2.0, as the code). `held.txt` is by another author, and only measured. The judge is MiniLM over two
questions at once; each linear layer learns a change of low rank (LoRA, arXiv 2106.09685), a fifteenth of its weights.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.utils import parametrize

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


class LowRank(nn.Module):
    """W + up @ down: (out, in) of rank `rank`; nothing at first."""

    def __init__(self, out: int, into: int, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(out, rank))
        self.down = nn.Parameter(2 * torch.randn(rank, into) / math.sqrt(into))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.up @ self.down


class Learner(nn.Module):
    """The judge while it learns.

    Args:
        folder: of the embedder.
        rank: of the changes.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        super().__init__()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.bert = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")
        for module in self.bert.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        self.bert.embeddings.position_embeddings.weight.requires_grad_(False)
        for layer in self.bert.encoder.layer:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    module.weight.requires_grad_(False)
                    change = LowRank(module.out_features, module.in_features, rank)
                    parametrize.register_parametrization(module, "weight", change)
        self.dropout = nn.Dropout(0.1)
        self.judge = nn.Linear(2 * self.bert.config.hidden_size, 1)
        nn.init.normal_(self.judge.weight, std=0.02)

    def size(self, one: str, two: str) -> int:
        """Tokens of a pair."""
        return len(self.tokenizer.encode(one)) + len(self.tokenizer.encode(two)) - 1

    def forward(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Logits of one answer for both, [len(pairs)]."""
        sides = [(self.tokenizer.encode(one).ids, self.tokenizer.encode(two).ids[1:]) for one, two in pairs]
        longest = max(len(one) + len(two) for one, two in sides)
        ids, places, side = (torch.zeros(len(pairs), longest, dtype=torch.long) for _ in range(3))
        seen = torch.zeros(len(pairs), longest)
        for row, (one, two) in enumerate(sides):
            end = len(one) + len(two)
            ids[row, :end] = torch.tensor(one + two)
            places[row, :end] = torch.tensor([*range(len(one)), *range(1, len(two) + 1)])
            side[row, len(one) : end] = 1
            seen[row, :end] = 1
        hidden = self.bert(ids, attention_mask=seen, token_type_ids=side, position_ids=places).last_hidden_state
        mean = (hidden * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True)  # (pairs, dim)
        joined = torch.cat((mean, hidden[:, 0]), -1).float()
        logits: Tensor = self.judge(self.dropout(joined))[:, 0]
        return logits

    def learned(self) -> dict[str, Tensor]:
        """What differs from the embedder, by the names of its checkpoint, in float16."""
        return {_plain(name): each.data.half().contiguous() for name, each in self._changed()}

    def take(self, learned: dict[str, Tensor]) -> None:
        """Begin with what was learned before."""
        for name, each in self._changed():
            each.data.copy_(learned[_plain(name)])

    def _changed(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, each) for name, each in self.named_parameters() if each.requires_grad]


def _plain(name: str) -> str:
    """Of a parameter, in the embedder's checkpoint."""
    return name.removeprefix("bert.").replace("parametrizations.", "").replace("weight.0.", "weight.")


@torch.no_grad()
def logits(learner: Learner, pairs: Sequence[tuple[str, str]], batch: int = 128) -> Tensor:
    """As the judge says them: [len(pairs)]."""
    learner.eval()
    order = sorted(range(len(pairs)), key=lambda at: learner.size(*pairs[at]))
    found = torch.zeros(len(pairs))
    for start in range(0, len(order), batch):
        at = order[start : start + batch]
        with torch.autocast("cpu", torch.bfloat16):
            found[at] = learner([pairs[each] for each in at]).float()
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
    """AdamW on binary cross-entropy, in bfloat16; the rate rises for a while, and falls in a line to a fiftieth."""
    weights = [each for each in learner.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    draws = stream(seed, "semcache/training")
    source, task = examples(found, draws, words), progress.add_task("training", total=steps, loss=0.0)
    ready: list[list[Example]] = []
    mean, rising = 0.7, min(100, steps // 10 + 1)
    for step in range(steps):
        if not ready:
            pool = sorted((next(source) for _ in range(POOL * batch)), key=lambda each: learner.size(each[0], each[1]))
            ready = draws.sample([pool[at : at + batch] for at in range(0, len(pool), batch)], POOL)
        chosen = ready.pop()
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / rising) * max(0.02, 1 - step / steps)
        with torch.autocast("cpu", torch.bfloat16):
            told = learner([(one, two) for one, two, _ in chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(told, torch.tensor([each[2] for each in chosen]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        mean += 0.02 * (loss.item() - mean)
        progress.update(task, advance=1, loss=mean)
        if step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1:
            save()


def main(
    steps: Annotated[
        int, typer.Option(help="Batches; 3,600 take three quarters of an hour on two cores with AMX.")
    ] = 3600,
    batch: Annotated[int, typer.Option(help="Pairs of a step.")] = 64,
    rate: Annotated[float, typer.Option(help="Learning rate at its highest.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="Of the change of each linear layer.")] = 16,
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
    learner = Learner(bundled_embedder(), rank)
    if start is not None:
        learner.take(load_file(start))
    words = Replacements(found, MiniLm(bundled_embedder()).embed)
    console.print(f"{len(found)} groups to learn from, {len(held)} to measure")
    columns: tuple[Any, ...] = (*Progress.get_default_columns(), "loss {task.fields[loss]:.3f}")
    with Progress(*columns, console=console) as progress:
        train(learner, found, steps, batch, rate, seed, progress, lambda: save_file(learner.learned(), out), words)
    console.print(measured(learner, held))
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
