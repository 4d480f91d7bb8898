"""Log-probabilities of tokens under the model's own distribution, before anything of the client changes it.

log p_i = (l_i - max l) - log sum_j exp(l_j - max l), with the sum in float64. Each row is computed apart from all
others, so the numbers do not depend on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from services.core.batch import Row, TokenLogprob
from services.engine.filters import ranked


def token_logprob(logits: Tensor, token_id: int, num_top: int) -> TokenLogprob:
    """One token's log-probability and those of the `num_top` likeliest.

    Args:
        logits: [vocab] float32.
    """
    below = logits - logits.max()
    total = float(below.exp().sum(dtype=torch.float64))
    ids = [token_id, *(ranked(logits, min(num_top, len(logits))).tolist() if num_top else ())]
    values: list[float] = (below[ids].double() - math.log(total)).float().tolist()
    return TokenLogprob(token_id, values[0], tuple(zip(ids[1:], values[1:], strict=True)))


class Scores:
    """Collects the log-probabilities that a step's rows ask for, as the model gives logits piece by piece."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._wanted = [(target, row.score.num_top) for row in rows if row.score for target in row.score.targets]
        self._found: list[TokenLogprob] = []

    @property
    def asked(self) -> bool:
        """Whether any row asks for one."""
        return bool(self._wanted)

    def take(self, logits: Tensor) -> None:
        """The next [n, vocab] float32 logits, in the order of `InputBatch.scored`."""
        wanted = self._wanted[len(self._found) : len(self._found) + len(logits)]
        self._found += [token_logprob(row, *each) for row, each in zip(logits, wanted, strict=True)]

    def by_row(self, num_rows: int) -> tuple[tuple[TokenLogprob, ...], ...]:
        """One entry a row, those in front of the given ones included; nothing when no row asked.

        Raises:
            ArithmeticError: the logits hold NaN.
        """
        if not self.asked:
            return ()
        if any(math.isnan(each.logprob) for each in self._found):
            raise ArithmeticError("the logits hold NaN; the weights or the KV cache are damaged")
        found = iter(self._found)
        told = [tuple(next(found) for _ in row.score.targets) if row.score else () for row in self._rows]
        return ((),) * (num_rows - len(told)) + tuple(told)
