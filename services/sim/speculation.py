"""Speculative decoding as its measured acceptance rate: steps bring more than one token, and guesses have their price.

A step that brings E tokens (`expected_tokens`) is simulated as E steps of one token each: means are right, the lumps in
which tokens come are not. How many tokens are guessed ahead follows from cost at every step: many while a step is short
of work, none when the device is full of rows (`best_gamma`). A step with prompts in it does not speculate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.core.cost import best_gamma, expected_tokens
from services.core.errors import ConfigError
from services.sim.cost_model import CostModel, Linear, StepShape, StepTime, nanoseconds_each
from services.sim.models import ModelSpec
from services.sim.plan.instances import Instance
from services.sim.roofline import Device, Roofline

MOST_GUESSES = 8
MANY_ROWS = 64
FAR = 1_000_000
"""Tokens of context at which a step is looked at, beside none, for the line between."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """What is known of the guesses.

    Attributes:
        acceptance: share of guesses that the verifier accepts, measured for the model and the traffic; 0 to 1.
        draft: model that guesses, on the same device; None: guesses take `draft_ms`.
        draft_ms: time to guess one token of every request, where no model is named (prompt lookup, suffixes).
    """

    acceptance: float
    draft: ModelSpec | None = None
    draft_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.acceptance <= 1:
            raise ConfigError("--speculation", f"acceptance={self.acceptance:g}", "write a share between 0 and 1")
        if self.draft_ms < 0:
            raise ConfigError("--speculation", f"draft={self.draft_ms:g}ms", "write a time that is not negative")


@dataclass(frozen=True)
class Speculating:
    """A cost model whose decode steps verify guesses.

    Attributes:
        draft: fixed time of one guess of all rows, and of each row; None in `Linear.context`.
    """

    inner: CostModel
    acceptance: float
    draft: Linear
    _lines: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict, compare=False)

    def step(self, shape: StepShape) -> StepTime:
        """Time of any step, for each token that it brings a request."""
        if shape.tokens or shape.images or not shape.rows:
            return self.inner.step(shape)
        return StepTime(int(self._token_ns(shape.rows, np.array([float(shape.context)]))[0]))

    def decode_ns(self, rows: int, context: int, count: int) -> NDArray[np.int64]:
        """Times of `count` steps of the same decodes, whose context grows by `rows` each step: int64, [count]."""
        return self._token_ns(rows, context + rows * np.arange(count, dtype=np.float64))

    def gamma(self, rows: int, context: int) -> int:
        """Tokens that are guessed ahead for each of so many rows."""
        fixed, slope = self._line(rows)
        verify = [float(ms) for ms in fixed + slope * context]
        return best_gamma(self.acceptance, verify, self._draft_ms(rows))

    def _token_ns(self, rows: int, contexts: NDArray[np.float64]) -> NDArray[np.int64]:
        fixed, slope = self._line(rows)
        guesses = np.arange(len(fixed))
        tokens = np.array([expected_tokens(self.acceptance, int(each)) for each in guesses])
        ms = fixed + guesses * self._draft_ms(rows) + contexts[:, None] * slope  # [count, guesses]
        return nanoseconds_each((ms / tokens).min(axis=1))

    def _draft_ms(self, rows: int) -> float:
        return self.draft.fixed + rows * self.draft.unit

    def _line(self, rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Verifying 0, 1, ... guesses of every row: time without context, and of each token of it; ms.

        A row's guesses look at its context together, so that it is read once.
        """
        found = self._lines.get(rows)
        if found is None:
            near, far = (
                np.array(
                    [
                        self.inner.step(StepShape(0, 0, 0.0, 0, rows * (guesses + 1), context)).busy_ns / 1e6
                        for guesses in range(MOST_GUESSES + 1)
                    ]
                )
                for context in (0, FAR)
            )
            found = self._lines[rows] = (near, (far - near) / FAR)
        return found


def draft_cost(known: Speculation, device: Device) -> Linear:
    """Time to guess one token: fixed, and for each row; of a draft model what its own step takes on one device."""
    if known.draft is None:
        return Linear(known.draft_ms, 0.0, 0.0)
    roofline = Roofline(known.draft, device)
    one, many = (roofline.step(StepShape(0, 0, 0.0, 0, rows, 0)).busy_ns / 1e6 for rows in (1, MANY_ROWS))
    row = (many - one) / (MANY_ROWS - 1)
    return Linear(one - row, row, 0.0)


def speculating(found: Instance, known: Speculation, device: Device) -> Instance:
    """The worker with a drafter beside it, which takes memory from its KV.

    Raises:
        ConfigError: the draft model leaves no room.
    """
    weights = 0.0 if known.draft is None else known.draft.total_bytes
    tokens = int(found.tokens - weights / found.token_bytes)
    if tokens < 1:
        name = "" if known.draft is None else known.draft.name
        raise ConfigError("--speculation", f"draft={name}", f"leaves no memory for KV on {found}; name a smaller one")
    cost = Speculating(found.cost, known.acceptance, draft_cost(known, device))
    return replace(found, cost=cost, tokens=tokens)
