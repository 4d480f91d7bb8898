"""`triptych view` and `triptych explain`: what placement rests on, and where a request would go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.table import Table

from services.cli.client import ask_cluster
from services.cli.output import EXIT_FAILED, EXIT_OK, CliError, Output
from services.pb import cluster_pb2 as pb

TIMEOUT_S = 10.0
PER_MILLION = 1e6
MISSED_MS = 1e4
"""Costs from here on say that an objective is missed, and not how long anything takes."""


def plain(message: Message) -> Any:
    """A message as JSON data; fields that are not set have their default."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def table_of(*titles: str, words: int = 1) -> Table:
    """A table whose first columns are words and whose others are numbers."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < words else "right", no_wrap=True)
    return table


def show_view(output: Output, server: str, as_json: bool) -> int:
    """Print one front door's view.

    Raises:
        ServerError: the cluster does not answer.
    """
    view = ask_cluster(server, lambda stub: stub.DumpView(pb.DumpViewRequest(), timeout=TIMEOUT_S))
    if as_json:
        output.json(plain(view))
        return EXIT_OK
    output.line(f"view of {view.front_door}")
    output.out.print(worker_table(view.workers))
    if view.pools:
        output.line("\nlearned, in ms (of a token, in ns)")
        output.out.print(estimate_table(view))
    if view.lengths:
        output.line("\noutputs, in tokens")
        output.out.print(length_table(view.lengths))
    numbers = {**{name: f"{value:g}" for name, value in sorted(view.figures.items())}}
    numbers |= {f"waiting at priority {level}": str(count) for level, count in sorted(view.queue.items())}
    numbers |= {f"refused {reason}": str(count) for reason, count in sorted(view.refused.items())}
    output.line("\n" + "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers.items()))
    return EXIT_OK


def worker_table(workers: Iterable[pb.WorkerKnowledge]) -> Table:
    """One row a worker: its last report, and what was promised to it since."""
    table = table_of("worker", "roles", "age ms", "queued tok", "decodes", "KV", "sent tok", "bound", "turn", words=2)
    for each in workers:
        roles = "+".join(each.roles) + (", drains" if each.draining else "")
        used = f"{each.kv_blocks_used / max(each.kv_blocks_total, 1):.0%}"
        loads = (each.queued_prefill_tokens, each.running_decodes, used)
        promised = (each.reserved_prompt_tokens, each.reserved_decodes, f"{max(each.turn, 0):.0f}")
        table.add_row(each.id, roles, f"{each.report_age_ms:.0f}", *map(str, (*loads, *promised)))
    return table


def estimate_table(view: pb.DumpViewResponse) -> Table:
    """What steps and hand-offs cost, with the number of observations behind it."""
    table = table_of("what", "fixed", "per token", "per row", "per pair or context", "seen")
    for pool in view.pools:
        prefill = (f"{pool.prefill_token_ms:.3f}", "", f"{pool.prefill_pair_ms * PER_MILLION:.1f} ns")
        table.add_row(f"{pool.pool} prefill", f"{pool.prefill_step_ms:.2f}", *prefill, str(pool.prefill_observations))
        decode = ("", f"{pool.decode_row_ms:.3f}", f"{pool.decode_context_ms * PER_MILLION:.1f} ns")
        table.add_row(f"{pool.pool} decode", f"{pool.decode_step_ms:.2f}", *decode, str(pool.decode_observations))
        table.add_row(f"{pool.pool} overhead", f"{pool.overhead_ms:.2f}", "", "", "", "")
    for each in view.transfers:
        name = "hand-off, one host" if each.same_host else "hand-off, two hosts"
        table.add_row(name, f"{each.fixed_ms:.2f}", f"{each.token_ms:.4f}", "", "", str(each.observations))
    return table


def length_table(lengths: Iterable[pb.LengthEstimate]) -> Table:
    """Quantiles by tenant and category."""
    table = table_of("tenant", "category", "p50", "p90", "seen", words=2)
    for each in lengths:
        numbers = map(str, (each.p50_tokens, each.p90_tokens, each.observations))
        table.add_row(each.tenant or "-", each.category or "-", *numbers)
    return table


def placement_request(
    prompt: str | None,
    prompt_tokens: int,
    max_tokens: int,
    ttft_ms: int,
    tpot_ms: int,
    priority: int,
    category: str,
    tenant: str,
    limit: int,
) -> pb.ExplainPlacementRequest:
    """The options as a question.

    Raises:
        CliError: there is no prompt and no length, or both.
    """
    if (prompt is None) == (prompt_tokens == 0):
        raise CliError("give a prompt, or its length with --prompt-tokens")
    return pb.ExplainPlacementRequest(
        messages=[] if prompt is None else [pb.PromptTurn(role="user", text=prompt)],
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        ttft_slo_ms=ttft_ms,
        tpot_slo_ms=tpot_ms,
        priority=priority,
        category=category,
        tenant=tenant,
        limit=limit,
    )


def show_placement(output: Output, server: str, request: pb.ExplainPlacementRequest, as_json: bool) -> int:
    """Print where a request would go; exit status 1 when it would be rejected.

    Raises:
        ServerError: the cluster refuses the question or does not answer.
    """
    told = ask_cluster(server, lambda stub: stub.ExplainPlacement(request, timeout=TIMEOUT_S))
    code = EXIT_FAILED if told.admission == "rejected" else EXIT_OK
    if as_json:
        output.json(plain(told))
        return code
    output.styled(told.admission, "red" if code else "green", f": {sentence(told)}")
    output.out.print(candidate_table(told.candidates))
    if told.decision:
        output.note(told.decision)
    return code


def sentence(told: pb.ExplainPlacementResponse) -> str:
    """What would happen, in words."""
    sizes = f"{told.prompt_tokens} prompt tokens, {told.expected_tokens} output tokens expected"
    if told.admission == "rejected":
        return f"{told.reason}, {told.message} ({sizes})"
    if told.admission == "held":
        return f"it would wait about {told.waits_ms:.0f} ms at {told.front_door} ({sizes})"
    return f"{sizes}; asked {told.front_door}"


def candidate_table(candidates: Iterable[pb.PlacementCandidate]) -> Table:
    """One row a worker and stage, within 80 columns; times in ms."""
    table = table_of("stage", "worker", "TTFT", "wait", "prefill", "move", "slot", "ITL", "hits", "cost", words=2)
    table.add_column("", no_wrap=True)
    for each in candidates:
        if each.excluded_by or not each.path:
            table.add_row(each.stage, each.worker, *[""] * 8, each.excluded_by or "no partner", style="dim")
            continue
        late = each.cost_ms >= MISSED_MS and not each.feasible
        times = (each.ttft_ms, each.wait_ms, each.prefill_ms, each.transfer_ms, each.slot_ms, each.itl_ms)
        numbers = (*(f"{time:.1f}" for time in times), str(each.hit_tokens), "late" if late else f"{each.cost_ms:.1f}")
        table.add_row(each.stage, each.worker, *numbers, "chosen" if each.chosen else "")
    return table
