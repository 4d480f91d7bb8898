"""What a trace says of requests against what their client saw; shared by the tiers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.pb import inference_pb2, inference_pb2_grpc, trace_pb2, trace_pb2_grpc
from tests.cluster.harness import Cluster, wait_for

STAGES = ["receive", "route", "dispatch", "queue", "prefill", "handoff", "decode", "deliver"]
"""Of a request that two workers serve, without a cache."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One request.

    Attributes:
        client_ms: from just before the call to its end, at the client.
        stages_ms: the trace's stages, added up.
    """

    client_ms: float
    stages_ms: float
    trace: trace_pb2.Trace

    @property
    def error_ms(self) -> float:
        """What the trace does not account for: the way to the front door and back."""
        return self.client_ms - self.stages_ms


def traces_of(cluster: Cluster, name: str) -> list[trace_pb2.Trace]:
    """What the front door has."""
    stub = trace_pb2_grpc.TraceServiceStub(cluster.channel)
    return list(stub.GetTraces(trace_pb2.GetTracesRequest(id=name), timeout=10).traces)


def traced_request(cluster: Cluster, name: str, prompt: list[int], max_tokens: int) -> Compared:
    """One request, alone, and its trace."""
    stub = inference_pb2_grpc.InferenceServiceStub(cluster.channel)
    sampling = inference_pb2.Sampling(max_tokens=max_tokens, ignore_eos=True)
    request = inference_pb2.GenerateRequest(request_id=name, prompt_token_ids=prompt, sampling=sampling)
    sent = time.perf_counter()
    for _ in stub.Generate(request, timeout=120):
        pass
    client_ms = (time.perf_counter() - sent) * 1e3
    (trace,) = wait_for(lambda: traces_of(cluster, name), 30, "the trace is there")
    stages = [span for span in trace.spans if "triptych.stage" in span.attributes]
    return Compared(client_ms, sum(span.duration_us for span in stages) / 1e3, trace)
