"""The commands that look at a running cluster: `status`, `top`, `trace`, `view`, `explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.client import NAME, STATE_FOLDER, find_server
from services.cli.options import JsonOption, NameOption, ServerOption, StateOption, SvgOption, examples
from services.cli.output import Output

watch_app = typer.Typer()


@watch_app.command(epilog=examples("triptych status", "triptych status --json --server gpu-1:50051"))
def status(
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Show the workers: role, process, KV blocks, load."""
    from services.cli.status import show_status

    raise typer.Exit(show_status(Output(), find_server(server, folder.expanduser(), name), as_json))


@watch_app.command(epilog=examples("triptych top", "triptych top --slo-ttft-ms 500", "triptych top --count 1 --json"))
def top(
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Looks to take; default: until Ctrl-C.")] = None,
    ttft_ms: Annotated[float, typer.Option("--slo-ttft-ms", min=1, help="Bound of the time to first token.")] = 1000.0,
    itl_ms: Annotated[float, typer.Option("--slo-itl-ms", min=1, help="Bound of the time between tokens.")] = 100.0,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a look.")] = False,
    svg: SvgOption = None,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Watch the cluster live: traffic, latency against bounds, caches, pools, and each worker's queue and KV blocks.

    Latencies are of the requests that ended within the last minute at the front door that answers.
    """
    from services.cli.top import Watching
    from services.cli.top import top as run

    watching = Watching(find_server(server, folder.expanduser(), name), every_s, count, ttft_ms, itl_ms, as_json, svg)
    raise typer.Exit(run(Output(), watching))


@watch_app.command(epilog=examples("triptych trace", "triptych trace req-7d3c", "triptych trace req-7d3c --json"))
def trace(
    request: Annotated[
        str | None, typer.Argument(metavar="ID", help="Request id or trace id; without it, the last requests.")
    ] = None,
    as_json: JsonOption = False,
    svg: SvgOption = None,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Show where a request spent its time, as a waterfall: front door, cache, prefill, hand-off, decode."""
    from services.cli.trace_view import show_trace

    raise typer.Exit(show_trace(Output(), find_server(server, folder.expanduser(), name), request, as_json, svg))


@watch_app.command(epilog=examples("triptych view", "triptych view --json | jq .pools"))
def view(
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Show all that placement rests on: reports and their age, reservations, and what the estimators have learned.

    Each front door has a view of its own; the one that answers is named. Needs a key with the role admin.
    """
    from services.cli.view import show_view

    raise typer.Exit(show_view(Output(), find_server(server, folder.expanduser(), name), as_json))


@watch_app.command(
    epilog=examples(
        'triptych explain "What is the capital of France?"',
        "triptych explain --prompt-tokens 4000 --max-tokens 200 --slo-ttft-ms 800",
        "triptych explain --prompt-tokens 512 --slo-tpot-ms 60 --priority=-1 --json",
    )
)
def explain(
    prompt: Annotated[str | None, typer.Argument(help="One user turn; its cached prefixes count.")] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=0, help="A length instead of a prompt.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=0, help="Longest output; 0: the default.")] = 0,
    ttft_ms: Annotated[int, typer.Option("--slo-ttft-ms", min=0, help="Wished time to the first token; 0: none.")] = 0,
    tpot_ms: Annotated[int, typer.Option("--slo-tpot-ms", min=0, help="Wished time of a token; 0: none.")] = 0,
    priority: Annotated[int, typer.Option("--priority", help="Below 0 it may be shed.")] = 0,
    category: Annotated[str, typer.Option("--category", help="What it is about, as in x-category.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose request; default: the key's own tenant.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=256, help="Workers to show of each stage.")] = 32,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Say where a request would go and why, without running it: predicted times, exclusions, and admission.

    Each candidate is shown together with the chosen worker of the other stage. Needs a key with the role admin.
    """
    from services.cli.view import placement_request, show_placement

    request = placement_request(prompt, prompt_tokens, max_tokens, ttft_ms, tpot_ms, priority, category, tenant, limit)
    raise typer.Exit(show_placement(Output(), find_server(server, folder.expanduser(), name), request, as_json))
