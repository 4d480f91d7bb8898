"""Keeps the garbage collector's pauses out of what is timed: it need not look at what lives as long as the process."""

from __future__ import annotations

import gc


def freeze_heap(full_every: int = 50) -> None:
    """Never look again at what exists now, and look at new objects in larger lots.

    Without it a full collection walks every module, model and route that was loaded: a tenth of a second in which no
    token moves.

    Args:
        full_every: collections of the middle generation to one of all; large in a run that ends soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, full_every)
