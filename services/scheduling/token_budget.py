"""How many tokens a step may take: decodes first, with a tile that they always leave to prompts (Sarathi-Serve)."""

from __future__ import annotations

from dataclasses import dataclass

from services.scheduling.config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Limits of one step.

    Decodes are never cut short (no stall) and prompts never get nothing (no starvation), because fewer requests than
    would fill the budget hold blocks at all: a decode takes one token, so `max_running` of them leave a tile.

    Attributes:
        total: tokens of a step.
        tile: tokens that are left when every running request decodes.
        max_running: most requests that hold blocks at once.
        max_chunk: most tokens of one prompt in a step.
    """

    total: int
    tile: int
    max_running: int
    max_chunk: int

    @classmethod
    def of(cls, config: SchedulerConfig) -> TokenBudget:
        """The configured limits; a budget of a few tokens gets a smaller tile, so that something can decode."""
        total = config.max_batch_tokens
        tile = min(config.prefill_tile_tokens, total // 2)
        return cls(total, tile, min(config.max_sequences, total - tile), config.max_chunk_tokens or total)

    def chunk(self, start: int, uncomputed: int, left: int) -> int:
        """Tokens of a prompt to compute in this step, at least one.

        Args:
            start: position of the first of them.
            uncomputed: tokens of the prompt that are not computed.
            left: what other rows left of the budget, at least one.
        """
        count = min(uncomputed, left, self.max_chunk)
        # A chunk that does not end the prompt ends at a tile, so that kernels and KV blocks waste nothing; but not
        # where it would be less than a tile then: that much of every step is for prompts.
        rest = (start + count) % self.tile if self.tile and count < uncomputed else 0
        return count - rest if count - rest >= self.tile else count
