"""What operators are told of placement: everything it rests on, and where a request would go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from services.core.clock import NS_PER_MS, Clock
from services.core.errors import InvalidRequestError
from services.core.request import Request
from services.frontdoor.auth import Authenticator, Identity
from services.frontdoor.call import current_call
from services.frontdoor.convert import Converter
from services.frontdoor.performer import Performer
from services.pb import cluster_pb2 as pb
from services.pb import inference_pb2
from services.router.estimators import OutputLengths
from services.router.explain import Candidate, explain
from services.router.placing import Placing
from services.router.predict import PoolTimes
from services.router.profiles import NoCandidate

DEFAULT_CANDIDATES, MAX_CANDIDATES = 32, 256
MOST_TOKENS = 2**31 - 1
MAX_PROMPT_TOKENS = 1_000_000
DEADLINE_MS = 60_000
TIMES = ("cost", "ttft", "wait", "prefill", "transfer", "slot", "itl")
REQUEST_ID = "explained"


class ViewCalls:
    """Answers of one front door.

    Args:
        converter: checks and tokenizes prompts as for real requests.
        authenticator: knows the tenants.
    """

    def __init__(self, performer: Performer, converter: Converter, authenticator: Authenticator, clock: Clock) -> None:
        self._performer = performer
        self._converter = converter
        self._authenticator = authenticator
        self._clock = clock

    def dump(self, front_doors: list[str]) -> pb.DumpViewResponse:
        """The whole view."""
        flow = self._performer.flow
        placing = flow.placing
        return pb.DumpViewResponse(
            front_door=self._performer.front_door,
            front_doors=front_doors,
            workers=self._workers(),
            pools=[pool_message(name, times) for name, times in sorted(placing.predictor.pools.items())],
            transfers=[
                pb.TransferEstimate(
                    same_host=bool(place),
                    fixed_ms=line.coefficients[0],
                    token_ms=line.coefficients[1],
                    observations=line.count,
                )
                for place, line in enumerate(placing.predictor.transfers)
            ],
            lengths=length_messages(placing),
            queue={str(priority): count for priority, count in flow.holding.queue.depths().items()},
            refused=dict(flow.holding.refused),
            figures={name: value for name, value in flow.figures().items() if not name.startswith("queue/")},
        )

    def _workers(self) -> Iterator[pb.WorkerKnowledge]:
        now = self._clock.now_ns()
        for worker_id, worker in self._performer.flow.view.workers.items():
            report = worker.report
            yield pb.WorkerKnowledge(
                id=worker_id,
                incarnation=report.source.incarnation,
                pool=report.pool,
                roles=report.roles,
                draining=report.draining,
                report_age_ms=max(now - worker.reported_ns, 0) / NS_PER_MS,
                queued_prefill_tokens=report.queued_prefill_tokens,
                running_decodes=report.running_decodes,
                context_tokens=report.context_tokens,
                kv_blocks_used=report.kv_blocks_used,
                kv_blocks_total=report.kv_blocks_total,
                reserved_prompts=worker.reserved_prompts,
                reserved_prompt_tokens=worker.reserved_prompt_tokens,
                reserved_decodes=worker.reserved_decodes,
                turn=worker.turn,
            )

    async def explain(self, message: pb.ExplainPlacementRequest) -> pb.ExplainPlacementResponse:
        """Where a request would go.

        Raises:
            InvalidRequestError: it is none that could be placed.
            NotFoundError: there is no such tenant.
        """
        if message.limit > MAX_CANDIDATES:
            raise InvalidRequestError("limit", f"{message.limit} is above {MAX_CANDIDATES}")
        identity = current_call.get().identity
        if message.tenant:
            identity = self._authenticator.identities(message.tenant)[0]
        request = await asyncio.to_thread(self._request, message, identity)
        most = message.limit or DEFAULT_CANDIDATES
        found = explain(self._clock.now_ns(), request, self._performer.flow, most)
        answer = pb.ExplainPlacementResponse(
            front_door=self._performer.front_door,
            prompt_tokens=len(request.prompt),
            expected_tokens=found.expected_tokens,
            candidates=map(candidate_message, found.candidates),
            decision="" if found.decision is None else found.decision.explanation(),
            admission="held" if found.held else "taken",
            waits_ms=found.waits_ms,
        )
        if isinstance(found.placed, NoCandidate):
            answer.admission, answer.reason, answer.message = "rejected", "NO_WORKERS", str(found.placed)
        elif found.refusal is not None:
            answer.admission, answer.reason = "rejected", found.refusal.reason
            answer.message, answer.retry_after_ms = found.refusal.message, found.refusal.retry_after_ms
        return answer

    def _request(self, message: pb.ExplainPlacementRequest, identity: Identity) -> Request:
        """What is asked about, checked as a client's request is."""
        if message.prompt_tokens > MAX_PROMPT_TOKENS:
            raise InvalidRequestError("prompt_tokens", f"{message.prompt_tokens} is above {MAX_PROMPT_TOKENS}")
        asked = inference_pb2.GenerateRequest(
            request_id=REQUEST_ID,
            messages=turns_of(message.messages),
            prompt=message.prompt,
            prompt_token_ids=[0] * message.prompt_tokens,
            sampling=inference_pb2.Sampling(max_tokens=message.max_tokens or None),
            priority=message.priority,
            ttft_slo_ms=message.ttft_slo_ms or None,
            tpot_slo_ms=message.tpot_slo_ms or None,
        )
        request = self._converter.request(asked, self._clock.unix_ms() + DEADLINE_MS, identity)
        if message.prompt_tokens:  # of a prompt that nobody has
            request = replace(request, block_hashes=())
        return replace(request, category=message.category)


def turns_of(turns: Iterable[pb.PromptTurn]) -> list[inference_pb2.Message]:
    """An operator's conversation as a client's."""
    return [
        inference_pb2.Message(role=each.role, content=[inference_pb2.ContentPart(text=each.text)]) for each in turns
    ]


def pool_message(pool: str, times: PoolTimes) -> pb.PoolEstimate:
    """What was learned of one pool."""
    step, token, pair = times.prefill.coefficients
    decode_step, row, context = times.decode.coefficients
    return pb.PoolEstimate(
        pool=pool,
        prefill_step_ms=step,
        prefill_token_ms=token,
        prefill_pair_ms=pair,
        decode_step_ms=decode_step,
        decode_row_ms=row,
        decode_context_ms=context,
        overhead_ms=times.overhead.value,
        prefill_observations=times.prefill.count,
        decode_observations=times.decode.count,
    )


def length_messages(placing: Placing) -> Iterator[pb.LengthEstimate]:
    """What was learned of outputs, by kind of request."""
    lengths = placing.predictor.lengths
    for tenant, category, seen in kinds_of(lengths):
        p50, p90 = (lengths.quantile(tenant, category, share, MOST_TOKENS) for share in (0.5, 0.9))
        yield pb.LengthEstimate(tenant=tenant, category=category, p50_tokens=p50, p90_tokens=p90, observations=seen)


def kinds_of(lengths: OutputLengths) -> list[tuple[str, str, int]]:
    """(tenant, category, outputs seen) of all kinds, those seen last at the end."""
    state: Any = lengths.state()
    return [(tenant, category, seen) for (tenant, category), _, seen in state[2]]


def candidate_message(candidate: Candidate) -> pb.PlacementCandidate:
    """One worker in one stage."""
    told = pb.PlacementCandidate(
        worker=candidate.worker.worker_id,
        stage=candidate.stage,
        chosen=candidate.chosen,
        excluded_by=candidate.excluded_by,
    )
    decision = candidate.decision
    if decision is not None:
        for name in ("path", "feasible", "hit_tokens", *(f"{each}_ms" for each in TIMES)):
            setattr(told, name, getattr(decision, name))
    return told
