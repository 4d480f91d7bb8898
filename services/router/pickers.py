"""Pickers: one worker out of the scored ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

from services.core.registry import Registry
from services.router.view import WorkerView

Scored = Sequence[tuple[float, WorkerView]]
Picker = Callable[[Scored], WorkerView]
PICKERS: Registry[Picker] = Registry("picker", "router.picker")


@PICKERS.register("lowest")
def lowest(scored: Scored) -> WorkerView:
    """The cheapest; among equals the first by worker id."""
    return min(scored, key=itemgetter(0))[1]
