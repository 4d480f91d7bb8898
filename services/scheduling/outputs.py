"""A step's tokens as outputs, gathered for each front door: this runs for every token that is made."""

from __future__ import annotations

from services.core.actions import Action, Emit, RequestOutput
from services.core.request import FinishReason
from services.scheduling.mixed import Advanced


class StepOutputs:
    """What one stage tells of one step; one `Emit` for each front door."""

    def __init__(self) -> None:
        self._by_front_door: dict[str, list[RequestOutput]] = {}

    def add(self, advanced: Advanced, token: int, finish: FinishReason | None) -> None:
        """A request's newest token, with everything that waited to go with one."""
        state, request = advanced.state, advanced.state.request
        is_first = state.num_new_outputs == 1
        output = RequestOutput(
            request.request_id,
            request.attempt,
            state.num_outputs - 1,
            (token,),
            finish,
            cached_tokens=state.cached_tokens if is_first else 0,
            marks=state.take_marks() if state.marks else (),
            logits_digests=state.take_digests() if state.digests else (),
            logprobs=() if advanced.logprob is None else (advanced.logprob,),
            prompt_logprobs=state.take_prompt_logprobs() if is_first else (),
        )
        outputs = self._by_front_door.get(request.front_door)
        if outputs is None:
            self._by_front_door[request.front_door] = [output]
        else:
            outputs.append(output)

    def emits(self) -> list[Action]:
        """All of them, front doors in the order of their first output."""
        return [Emit(front_door, tuple(outputs)) for front_door, outputs in self._by_front_door.items()]
