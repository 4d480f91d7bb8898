"""Pickers: one worker out of the scored ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.core.registry import Registry
from services.router.view import WorkerView

Scored = Sequence[tuple[float, WorkerView]]
Picker = Callable[[Scored], WorkerView]
PICKERS: Registry[Picker] = Registry("picker", "router.picker")


@PICKERS.register("lowest")
def lowest(scored: Scored) -> WorkerView:
    """The cheapest; among equals the one whose last turn lies furthest back."""
    return min(scored, key=lambda each: (each[0], each[1].turn))[1]
