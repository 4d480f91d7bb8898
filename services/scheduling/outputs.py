"""A step's tokens as outputs, gathered for each front door: this runs for every token that is made."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from services.core.actions import Action, Emit, RequestOutput
from services.core.batch import TokenLogprob
from services.core.output import Output, StepTokens
from services.core.request import FinishReason, Request
from services.scheduling.progress import Sampled
from services.scheduling.waiting import RequestState


class StepOutputs:
    """What one stage tells of one step; one `Emit` for each front door.

    Args:
        plain: a front door, and tokens that only go out there.
    """

    def __init__(self, plain: tuple[str, StepTokens] | None = None) -> None:
        self._tokens: defaultdict[str, list[tuple[str, int, int, int]]] = defaultdict(list)
        self._others: defaultdict[str, list[Output]] = defaultdict(list)
        if plain is not None:
            self._others[plain[0]].append(plain[1])

    def take_plain(self, sampled: Sequence[Sampled]) -> list[Sampled]:
        """Take the tokens of requests that were told two before and do not end; returns all others."""
        others: list[Sampled] = []
        for each in sampled:
            state, token, logprob = each
            known = len(state.tokens)
            goes_on = known - state.num_given > 2 and known < state.max_num_tokens and token not in state.stop_ids
            if goes_on and logprob is None and not state.marks and not state.digests:
                request, index = state.request, known - state.num_prompt - 1
                self._tokens[request.front_door].append((request.request_id, request.attempt, index, token))
            else:
                others.append(each)
        return others

    def add(self, state: RequestState, token: int, logprob: TokenLogprob | None, finish: FinishReason | None) -> None:
        """A request's newest token, with everything that waited to go with one."""
        request, num_known = state.request, len(state.tokens)
        index, is_first = num_known - state.num_prompt - 1, num_known == state.num_given + 1
        if not (finish or logprob or is_first or state.marks or state.digests):
            self._tokens[request.front_door].append((request.request_id, request.attempt, index, token))
            return
        output = RequestOutput(
            request.request_id,
            request.attempt,
            index,
            (token,),
            finish,
            cached_tokens=state.cached_tokens if is_first else 0,
            marks=state.take_marks(),
            logits_digests=state.take_digests(),
            logprobs=() if logprob is None else (logprob,),
            prompt_logprobs=state.take_prompt_logprobs() if is_first else (),
        )
        self._others[request.front_door].append(output)

    def emits(self) -> list[Action]:
        """All of them; a front door's plain tokens come first, as one."""
        for front_door, entries in self._tokens.items():
            request_ids, attempts, indices, token_ids = zip(*entries, strict=True)
            tokens = StepTokens(request_ids, attempts, indices, token_ids)
            self._others[front_door].insert(0, tokens)
        return [Emit(front_door, tuple(outputs)) for front_door, outputs in self._others.items()]


def count_ends(emits: Sequence[Emit], ended: Counter[str]) -> None:
    """Every request that ends without its full output is counted by reason."""
    for emit in emits:
        for output in emit.outputs:
            if isinstance(output, RequestOutput) and output.reason:
                ended[f"ended/{output.reason}"] += 1


def merge_emits(actions: list[Action]) -> list[Action]:
    """One Emit for each front door, at the place of its first: a step is one item of a stream."""
    outputs: dict[str, list[Output]] = {}
    for action in actions:
        if isinstance(action, Emit):
            outputs.setdefault(action.destination, []).extend(action.outputs)
    merged: list[Action] = []
    for action in actions:
        if not isinstance(action, Emit):
            merged.append(action)
        elif action.destination in outputs:
            merged.append(Emit(action.destination, tuple(outputs.pop(action.destination))))
    return merged


def refuse(request: Request, reason: str, message: str, state: RequestState | None = None) -> Emit:
    """End a request with an error."""
    return Emit(request.front_door, (end_of(request, state, FinishReason.ERROR, reason, message),))


def end_of(
    request: Request, state: RequestState | None, finish: FinishReason, reason: str, message: str = ""
) -> RequestOutput:
    """The last output of a request that ends without its full length."""
    index = state.num_outputs if state is not None else len(request.resume)
    marks = state.take_marks() if state is not None else ()
    return RequestOutput(
        request.request_id, request.attempt, index, (), finish=finish, reason=reason, message=message, marks=marks
    )
