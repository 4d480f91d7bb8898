"""A placement with the numbers it rests on: kept for its client, its metrics and whoever asks why."""

from __future__ import annotations

from dataclasses import dataclass, fields

from services.core.request import WorkerRef


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes, and what is predicted of it; times in ms.

    Attributes:
        prefill, decode: workers; the same one when nothing is handed off.
        path: handoff, colocated or local_prefill/<reason>.
        cost_ms: what the choice minimized.
        ttft_ms: to the first token, from now: overhead, `wait_ms` for queued prompts, `prefill_ms`.
        transfer_ms, slot_ms: the hand-off, and the wait for blocks on the decode worker.
        itl_ms: of a token, with everything that is on its way to the decode worker; `idle_itl_ms`: alone there.
        itl_now_ms: with what runs there now; `itl_then_ms`: with what is predicted to run when the prompt is computed.
        hit_tokens: of the prompt in the prefix cache of its worker; `best_hit_tokens`: of any.
        tokens: of the prompt.
        prefill_candidates, decode_candidates: workers that passed the hard filters.
        feasible: it keeps its objectives, with the configured safety.
        gain_ms: what the hand-off saves over computing the prompt on the decode worker.
        life_ms: how long it will decode.
    """

    prefill: WorkerRef
    decode: WorkerRef
    path: str
    cost_ms: float
    ttft_ms: float
    wait_ms: float
    prefill_ms: float
    transfer_ms: float
    slot_ms: float
    itl_ms: float
    idle_itl_ms: float
    itl_now_ms: float
    itl_then_ms: float
    hit_tokens: int
    best_hit_tokens: int
    tokens: int
    prefill_candidates: int
    decode_candidates: int
    feasible: bool
    gain_ms: float
    life_ms: float

    @property
    def reason(self) -> str:
        """What decided: there was only one, its prefix, or the load."""
        if self.prefill_candidates <= 1 and self.decode_candidates <= 1:
            return "only"
        return "prefix" if self.hit_tokens else "load"

    def explanation(self) -> str:
        """One line: `key=value` pairs, for a header and for people."""
        shown = [f"path={self.path}", f"reason={self.reason}"]
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, WorkerRef):
                value = value.worker_id
            elif isinstance(value, bool):
                value = str(value).lower()
            elif isinstance(value, float):
                value = f"{value:.1f}"
            if each.name != "path":
                shown.append(f"{each.name}={value}")
        return " ".join(shown)
