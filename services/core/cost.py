"""What prefill, a decode step, images and a transfer cost, in ms (DistServe, appendix A; linear in what is counted).

The coefficients are configuration; whoever fits them does so elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def encode_ms(cost: CostConfig, num_tokens: int) -> float:
    """Time of a step that encodes images of `num_tokens` embedding tokens together; 0 tokens cost nothing."""
    return cost.encode_ms + num_tokens * cost.encode_token_ms if num_tokens else 0.0


def transfer_ms(cost: CostConfig, num_tokens: int) -> float:
    """Time from the offer of `num_tokens` tokens' KV to its commit when nothing waits."""
    return cost.transfer_ms + num_tokens * cost.transfer_token_ms


def expected_tokens(acceptance: float, gamma: int) -> float:
    """Tokens that one step brings a request when `gamma` are guessed ahead and each is accepted with a probability.

    1 + a + a^2 + ... + a^gamma: guesses count up to the first wrong one, and the verifier adds one token of its own
    (Leviathan et al., 2023, equation 1).

    Args:
        acceptance: 0 to 1; measured on the traffic that is planned for.
    """
    return float(gamma + 1) if acceptance == 1.0 else (1 - acceptance ** (gamma + 1)) / (1 - acceptance)


def best_gamma(acceptance: float, verify_ms: Sequence[float], draft_ms: float) -> int:
    """How many tokens to guess ahead so that a token takes the least time; 0 where guessing does not pay.

    Args:
        verify_ms: time of a step that verifies 0, 1, 2, ... guesses of every request.
        draft_ms: time to guess one token of every request.
    """
    each = [(ms + n * draft_ms) / expected_tokens(acceptance, n) for n, ms in enumerate(verify_ms)]
    return min(range(len(each)), key=each.__getitem__)
