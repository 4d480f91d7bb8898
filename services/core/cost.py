"""What prefill, a decode step and a transfer cost, in milliseconds (DistServe, appendix A; linear in what is counted).

The coefficients are configuration; whoever fits them does so elsewhere.
"""

from __future__ import annotations

from services.core.config import CostConfig


def prefill_ms(cost: CostConfig, num_tokens: int, context_tokens: int = 0) -> float:
    """Time to compute a prompt: a share for each token, and one for each pair of a token and one that it looks at.

    Args:
        num_tokens: tokens to compute; 0 costs nothing.
        context_tokens: tokens before them whose KV is there already.
    """
    if num_tokens == 0:
        return 0.0
    pairs = num_tokens * context_tokens + num_tokens * (num_tokens + 1) / 2
    return cost.prefill_ms + num_tokens * cost.prefill_token_ms + pairs * cost.prefill_pair_ms


def decode_step_ms(cost: CostConfig, num_rows: int, context_tokens: int) -> float:
    """Time of a step that computes one token for each of `num_rows` requests with `context_tokens` in all."""
    if num_rows == 0:
        return 0.0
    return cost.decode_step_ms + num_rows * cost.decode_row_ms + context_tokens * cost.decode_context_ms


def transfer_ms(cost: CostConfig, num_tokens: int) -> float:
    """Time from the offer of `num_tokens` tokens' KV to its commit when nothing waits."""
    return cost.transfer_ms + num_tokens * cost.transfer_token_ms
