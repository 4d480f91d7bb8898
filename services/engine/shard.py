"""Which attention heads and inner columns of a model each tensor-parallel rank holds (Megatron-LM's split)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from services.core.errors import ConfigError
from services.engine.model_shape import ModelShape

Cut = tuple[slice, ...]
"""What of a tensor to read, one slice a dimension."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a model; ranges are global indices.

    A KV head stays together with the query heads that share it, so attention needs no word from another rank; the
    output projection and the second half of the MLP then give partial sums that are added over the ranks. The output
    projection to the vocabulary is whole and at rank 0 alone, which alone samples: its product is the same as without
    tensor parallelism, and no logits travel. Embedding and norms are whole everywhere.
    """

    rank: int
    ranks: int
    kv_heads: range
    heads: range
    ffn: range
    head_dim: int

    def shape(self, whole: ModelShape) -> ModelShape:
        """The model as this rank sees it."""
        return replace(whole, heads=len(self.heads), kv_heads=len(self.kv_heads), ffn=len(self.ffn))

    def cut(self, name: str) -> Cut | None:
        """What this rank needs of the tensor `name` (by Hugging Face's names); None: nothing."""
        kind = name.split(".")[-2]
        queries, keys, inner = _of_heads(self.heads, self.head_dim), _of_heads(self.kv_heads, self.head_dim), self.ffn
        rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": inner, "up_proj": inner}
        columns = {"o_proj": queries, "down_proj": inner}
        if kind in rows:
            return (slice(rows[kind].start, rows[kind].stop),)
        if kind in columns and name.endswith(".weight"):
            return (slice(None), slice(columns[kind].start, columns[kind].stop))
        first_rank_only = kind in columns or kind == "lm_head"  # a bias is added once
        return () if self.rank == 0 or not first_rank_only else None


def _of_heads(heads: range, head_dim: int) -> range:
    """Rows of a projection that belong to `heads`."""
    return range(heads.start * head_dim, heads.stop * head_dim)


def split(count: int, ranks: int) -> list[range]:
    """`count` things over `ranks` in order, as evenly as it goes; the first ranks get one more."""
    size, larger = divmod(count, ranks)
    starts = [rank * size + min(rank, larger) for rank in range(ranks + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def check_ranks(shape: ModelShape, ranks: int, key: str = "tp") -> None:
    """Refuse a number of ranks that the model cannot be split into.

    Args:
        key: of the configuration, for the message.

    Raises:
        ConfigError: more ranks than KV heads.
    """
    if not 1 <= ranks <= shape.kv_heads:
        raise ConfigError(key, ranks, f"the model has {shape.kv_heads} KV heads; write 1 to {shape.kv_heads}")


def shard_of(shape: ModelShape, rank: int, ranks: int) -> Shard:
    """The part of rank `rank`.

    Raises:
        ConfigError: more ranks than KV heads.
    """
    check_ranks(shape, ranks)
    group = shape.heads // shape.kv_heads
    kv_heads = split(shape.kv_heads, ranks)[rank]
    heads = range(kv_heads.start * group, kv_heads.stop * group)
    return Shard(rank, ranks, kv_heads, heads, split(shape.ffn, ranks)[rank], shape.head_dim)
