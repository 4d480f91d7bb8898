"""Changes to logits before anything is drawn: penalties for tokens that were there, biases, tokens that may not come.

With l the logits of one row, in this order:

- repetition (Keskar et al., "CTRL", 2019), for ids in the prompt or the output: l / r where l > 0, else l · r;
- frequency and presence (OpenAI's API), for ids in the output: l - f · count - p;
- bias: l + b;
- forbidden: minus infinity;
- grammar: minus infinity for what may not follow (`grammar.py`), which knows of forbidden tokens too.

Only the ids concerned are touched, those of all rows at once; rows without any of this are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.core.batch import SampleSpec
from services.engine.grammar import Mask

Ids = npt.NDArray[np.int64]


def changes(spec: SampleSpec, position: int) -> bool:
    """Whether the logits of this request's token at `position` are changed at all."""
    return spec.reads_outputs or bool(spec.logit_bias) or position < spec.forbidden_before


def change_(
    logits: Tensor,
    specs: Sequence[SampleSpec],
    positions: Sequence[int],
    outputs: Sequence[Sequence[int]],
    masks: Mapping[int, Mask] | None = None,
) -> None:
    """Apply every row's penalties, biases and prohibitions in place.

    Args:
        logits: [rows, vocab] float32, contiguous.
        positions: of the token that each row's logits are for.
        outputs: of each row, the output so far; read where `counts_tokens`.
        masks: of rows with a grammar, what may follow.
    """
    flat, vocab = logits.view(-1), logits.shape[1]
    counting = [row for row, spec in enumerate(specs) if spec.counts_tokens]
    if counting:
        penalise_(flat, vocab, [(row, specs[row], outputs[row]) for row in counting])
    biases = [(row * vocab + token_id, value) for row, spec in enumerate(specs) for token_id, value in spec.logit_bias]
    if biases:
        places, values = zip(*biases, strict=True)
        flat[torch.tensor(places)] += torch.tensor(values, dtype=torch.float32)
    forbidden = [
        row * vocab + token_id
        for row, spec in enumerate(specs)
        if positions[row] < spec.forbidden_before and not spec.grammar
        for token_id in spec.forbidden
    ]
    if forbidden:
        flat[torch.tensor(forbidden)] = -math.inf
    for row, mask in (masks or {}).items():
        logits[row].masked_fill_(torch.from_numpy(~mask), -math.inf)


def penalise_(flat: Tensor, vocab: int, rows: Sequence[tuple[int, SampleSpec, Sequence[int]]]) -> None:
    """Penalties of (row, spec, output) on [all rows * vocab] logits, in place."""
    repeated: list[tuple[Ids, float]] = []
    counted: list[tuple[Ids, Ids, SampleSpec]] = []
    for row, spec, output in rows:
        ids, counts = np.unique(np.asarray(output, dtype=np.int64), return_counts=True)
        if spec.repetition_penalty != 1.0:
            seen = np.union1d(distinct(spec.prompt), ids) if spec.prompt else ids
            repeated.append((seen + row * vocab, spec.repetition_penalty))
        if spec.presence_penalty or spec.frequency_penalty:
            counted.append((ids + row * vocab, counts, spec))
    if repeated:
        places = torch.from_numpy(np.concatenate([ids for ids, _ in repeated]))
        by = spread([len(ids) for ids, _ in repeated], [penalty for _, penalty in repeated])
        found = flat[places]
        flat[places] = torch.where(found > 0, found / by, found * by)
    if counted:
        sizes = [len(ids) for ids, _, _ in counted]
        places = torch.from_numpy(np.concatenate([ids for ids, _, _ in counted]))
        times = torch.from_numpy(np.concatenate([counts for _, counts, _ in counted])).float()
        frequency = spread(sizes, [spec.frequency_penalty for _, _, spec in counted])
        presence = spread(sizes, [spec.presence_penalty for _, _, spec in counted])
        flat[places] = flat[places] - frequency * times - presence


def spread(sizes: Sequence[int], values: Sequence[float]) -> Tensor:
    """[sum of sizes] float32: each value as often as its size says."""
    return torch.from_numpy(np.repeat(np.asarray(values, dtype=np.float32), sizes))


@lru_cache(maxsize=256)
def distinct(prompt: tuple[int, ...]) -> Ids:
    """The ids of a prompt, each once; remembered, for the same prompt comes with every token of its output."""
    return np.unique(np.asarray(prompt, dtype=np.int64))
