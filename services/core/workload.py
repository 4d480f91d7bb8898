"""One row of any workload trace: what the load generator replays and the simulator plans for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One request of a trace, whatever format it came in.

    Attributes:
        arrival_s: since the trace's first row; rows of a trace come in this order.
        input_tokens: length of the prompt; 0 where the request failed and the trace does not know it.
        output_tokens: length of the output; 0 where the request failed.
        session: conversation that it is a turn of; "" where the trace knows none.
        turn: place in its session, from 0.
        think_s: pause between the end of the turn before and this one; None where the trace has only arrivals.
        prefix: ids of the prompt's leading blocks, chained: an id stands for a block and everything before it.
        prefix_block_tokens: tokens in one block of `prefix`; 0 without one. The last block may be partial.
        images: pictures in the prompt.
        tenant, category, model: as the trace names them; "" where it does not.
        failed: the request failed when the trace was recorded.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    session: str = ""
    turn: int = 0
    think_s: float | None = None
    prefix: tuple[int, ...] = ()
    prefix_block_tokens: int = 0
    images: int = 0
    tenant: str = ""
    category: str = ""
    model: str = ""
    failed: bool = False
