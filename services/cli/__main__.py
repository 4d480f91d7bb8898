"""The `triptych` command: its subcommands and their options.

Only this file reads the environment: `up` marks its process, all of the cluster inherit it, and `down` finds them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from services.cli import compiled
from services.cli.cache import cache_app
from services.cli.client import NAME, STATE_FOLDER, find_server
from services.cli.keys import keys_app
from services.cli.operate import complete_target, complete_worker
from services.cli.options import (
    ConfigOption,
    JsonOption,
    NameOption,
    ServerOption,
    SetOption,
    StateOption,
    WaitOption,
    examples,
)
from services.cli.output import EXIT_CANNOT_START, EXIT_FAILED, EXIT_INTERRUPTED, Output
from services.cli.settings import load_config, state_folder
from services.cli.watch import watch_app
from services.cluster.topology import CLUSTER_VARIABLE, cluster_environment
from services.core.errors import StartupError, TriptychError
from services.core.seeds import new_incarnation
from services.sim.plan.placement import Aim

app = typer.Typer(
    name="triptych",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Serve large language models from separate prefill and decode workers that hand over KV cache.\n\n"
        "Start a cluster with `triptych up`, talk to it with `triptych chat`, look at it with `triptych status` or "
        "`triptych top`, at one request with `triptych trace`, end it with `triptych down` or Ctrl-C. If something is "
        "wrong, ask `triptych doctor`.\n\n"
        "Exit status: 0 done; 1 the command ran and failed; 2 it could not start (options, configuration, model, "
        "ports, memory); 130 interrupted."
    ),
    epilog="`triptych --install-completion` makes the shell complete commands, options and worker ids.",
)


@app.command(
    epilog=examples(
        "triptych up",
        "triptych up --config cluster.yaml --set pools.decode.replicas=2",
        "triptych up --http-port 8001 --grpc-port 50052 --set cluster.name=second",
    )
)
def up(
    config: ConfigOption = None,
    assign: SetOption = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="Same as --set frontdoor.http_port=N.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Same as --set frontdoor.grpc_port=N.")] = None,
    folder: Annotated[Path | None, typer.Option("--state-folder", help="Same as --set state_folder=DIR.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="When ready, one line of JSON instead of the text.")] = False,
) -> None:
    """Start a cluster on this machine and stay in the foreground.

    The last lines on stdout are `ready`, the addresses, and requests to copy. The first Ctrl-C lets running requests
    finish, the second ends at once; neither leaves a process behind. SIGHUP reads the configuration again and replaces
    the front doors, new ones first; streams of the old ones finish.
    """
    from services.cli.up import up as run

    assignments = list(assign or [])
    for key, value in (
        ("frontdoor.http_port", http_port),
        ("frontdoor.grpc_port", grpc_port),
        ("state_folder", folder),
    ):
        if value is not None:
            assignments.append(f"{key}={value}")
    complete = load_config(config, assignments)
    cluster_id = os.environ.get(CLUSTER_VARIABLE)
    if cluster_id is None:
        # The mark must be in the environment that the system shows of this process, so it starts once more with it.
        marked = {**os.environ, **cluster_environment(f"{complete.cluster.name}-{new_incarnation():016x}")}
        os.execve(sys.executable, [sys.executable, "-P", "-m", "services.cli", *sys.argv[1:]], marked)
    code = run(complete, cluster_id, lambda: load_config(config, assignments), as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray's own exit handlers would wait for the processes that are gone by now


app.add_typer(watch_app)


@app.command(epilog=examples("triptych down", "triptych down --config cluster.yaml --now", "triptych down --all"))
def down(
    config: ConfigOption = None,
    assign: SetOption = None,
    every: Annotated[bool, typer.Option("--all", help="End every cluster of this user.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not let running requests finish.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End a cluster from outside, also one whose `up` was killed; no process is left."""
    from services.cli.down import end_all, end_named

    if every:
        raise typer.Exit(end_all(Output(), as_json))
    complete = load_config(config, assign or [])
    raise typer.Exit(end_named(Output(), state_folder(complete), complete.cluster.name, now, as_json))


@app.command(epilog=examples("triptych drain decode-1", "triptych drain prefill-0 --wait 0 --json"))
def drain(
    worker: Annotated[str, typer.Argument(help="Id, as `triptych status` shows it.", autocompletion=complete_worker)],
    wait_s: WaitOption = 60.0,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Take a worker out of its pool: it finishes its requests, ends, and is not replaced."""
    from services.cli.operate import drain as run

    raise typer.Exit(run(Output(), find_server(server, folder.expanduser(), name), worker, wait_s, as_json))


@app.command(epilog=examples("triptych scale decode=2", "triptych scale prefill=2 decode=4 --wait 0"))
def scale(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="ROLE=N...", help="Pools and their sizes.", autocompletion=complete_target),
    ],
    wait_s: WaitOption = 120.0,
    as_json: JsonOption = False,
    server: ServerOption = None,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Set how many workers a pool has; superfluous ones finish their requests first."""
    from services.cli.operate import parse_target
    from services.cli.operate import scale as run

    wanted = [parse_target(text) for text in targets]
    raise typer.Exit(run(Output(), find_server(server, folder.expanduser(), name), wanted, wait_s, as_json))


@app.command(
    epilog=examples(
        "triptych doctor",
        "triptych doctor --config cluster.yaml --quick",
        "triptych doctor --server gpu-1:50051 --json",
    )
)
def doctor(
    config: ConfigOption = None,
    assign: SetOption = None,
    server: Annotated[
        str | None, typer.Option("--server", help="host:port of a cluster elsewhere; looks at it, not at this machine.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes seconds: links, exactness.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find what keeps a cluster from starting or serving, and say what to do about it.

    Looks at this machine and, where the cluster of the configuration runs on it, at that cluster too. Exit status 1
    when there is an error; warnings alone are 0.
    """
    from services.cli.doctor import doctor as run

    raise typer.Exit(run(Output(), config, assign or [], server, quick, as_json))


@app.command(
    epilog=examples(
        'triptych chat "What is the capital of France?"',
        "triptych chat --system 'Answer in one word.' --temperature 0",
        "git diff | triptych chat --max-tokens 64",
    )
)
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One prompt; without it a conversation (or stdin).")] = None,
    server: ServerOption = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told first.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Show each phase with its worker and process.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for one prompt.")] = False,
    name: NameOption = NAME,
    folder: StateOption = STATE_FOLDER,
) -> None:
    """Ask the model: streams the answer, then shows TTFT and tokens per second."""
    from services.cli.chat import ChatOptions
    from services.cli.chat import chat as run

    where = find_server(server, folder.expanduser(), name)
    options = ChatOptions(where, system, temperature, max_tokens, seed, timeline, as_json)
    raise typer.Exit(run(Output(), prompt, options))


@app.command(
    epilog=examples(
        "triptych simulate --config cluster.yaml --trace loadgen/samples/azure_2023_conv.csv --speed 0.02",
        "triptych simulate --trace azure.csv --hardware h100-80g --model llama-3-8b --set pools.decode.replicas=2",
        "triptych simulate --trace azure.csv --hardware prefill=h100-80g --hardware decode=a100-80g --model opt-13b",
        "triptych simulate --trace images.csv --hardware a100-80g --model minicpm-v-2.6 --set pools.encode.replicas=2",
    )
)
def simulate(
    trace: Annotated[Path, typer.Option("--trace", "-t", help="A trace, or a workload file of loadgen.")],
    config: ConfigOption = None,
    assign: SetOption = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for samples and reports.")] = Path("simulated"),
    hardware: Annotated[
        list[str] | None,
        typer.Option("--hardware", help="NAME or POOL=NAME: fitted, opt-13b-a100, a100-80g, h100-80g, ..."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model by name; default: the configuration's.")] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Coefficients of fitted hardware; default: router.cost.")
    ] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="Cores that all workers share.")] = None,
    image_tokens: Annotated[
        int | None,
        typer.Option("--image-tokens", min=1, help="Of an image; default: as the model's vision tower makes."),
    ] = None,
    faults: Annotated[Path | None, typer.Option("--faults", help="YAML list: kind, at_s, target, ...")] = None,
    speed: Annotated[float, typer.Option("--speed", help="Arrivals so many times closer.")] = 1.0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of the trace at most.")] = None,
    ttft_ms: Annotated[
        float | None, typer.Option("--slo-ttft-ms", min=0, help="Bound of TTFT; the router is told.")
    ] = None,
    tpot_ms: Annotated[
        float | None, typer.Option("--slo-tpot-ms", min=0, help="Bound of TPOT; the router is told.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the report's intervals.")] = 0,
    chrome: Annotated[bool, typer.Option("--chrome-trace", help="Write timeline.json for Perfetto.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute what clients of a cluster would see: the same scheduler, router and hand-off on a virtual clock.

    Writes the report that `loadgen replay` writes, so that `loadgen compare` sets both side by side.
    """
    from services.cli.simulate import SimulateOptions
    from services.cli.simulate import simulate as run
    from services.core.slo import Slo

    options = SimulateOptions(
        trace=trace,
        folder=folder,
        slo=Slo(ttft_ms, tpot_ms),
        hardware=tuple(hardware or ()),
        model=model,
        cores=cores,
        image_tokens=image_tokens,
        profile=profile,
        faults=faults,
        speed=speed,
        limit=limit,
        seed=seed,
        chrome=chrome,
        as_json=as_json,
    )
    raise typer.Exit(run(Output(), load_config(config, assign or []), options))


@app.command(
    "plan",
    epilog=examples(
        "triptych plan --model llama-3-8b --hardware pool.yaml --trace azure.csv --slo ttft=400ms,tpot=40ms",
        "triptych plan --model opt-13b --hardware pool.yaml --trace azure.csv --slo ttft=250ms,tpot=100ms "
        "--objective cost --rate 40",
    ),
)
def make_plan(
    model: Annotated[str, typer.Option("--model", help="Model by name, or a folder with a config.json.")],
    hardware: Annotated[Path, typer.Option("--hardware", help="YAML: groups of hosts (device, hosts, price, ...).")],
    trace: Annotated[Path, typer.Option("--trace", "-t", help="A trace, or a workload file of loadgen.")],
    slo: Annotated[str, typer.Option("--slo", help="ttft=250ms,tpot=0.1s; the bounds of a request.")],
    objective: Annotated[
        Aim,
        typer.Option("--objective", help="goodput: the highest rate; cost, power: the least for --rate."),
    ] = Aim.GOODPUT,
    attainment: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share that keeps both bounds.")] = 0.9,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-6, help="Requests/s to take; default: all, or the trace's.")
    ] = None,
    config: ConfigOption = None,
    assign: SetOption = None,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of YAML, JSON, page.")] = Path("planned"),
    speculation: Annotated[
        str, typer.Option("--speculation", help="acceptance=0.7,draft=2ms (or a model), measured; gamma is chosen.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=2, help="Rows of the trace at most.")] = None,
    requests: Annotated[int, typer.Option("--requests", min=20, help="Of each run of one worker.")] = 600,
    full_requests: Annotated[
        int | None, typer.Option("--validate", min=20, help="Of each run of a whole cluster; default: by its size.")
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="To compute in.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of arrivals and of the sample of lengths.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the best placement: colocated or split, how many workers, how parallel, on which hardware.

    Single workers are simulated with the real scheduler, put together, and the best are simulated as whole clusters.
    """
    from services.cli.plan import PlanOptions
    from services.cli.plan import make_plan as run

    where = PlanOptions(model, hardware, trace, folder, slo, objective, attainment, rate, limit)
    how = replace(where, unit_requests=requests, full_requests=full_requests, processes=processes, seed=seed)
    options = replace(how, as_json=as_json, speculation=speculation)
    raise typer.Exit(run(Output(), load_config(config, assign or []), options))


@app.command(epilog=examples("triptych profile --out profile.yaml --set pools.decode.threads=2"))
def profile(
    config: ConfigOption = None,
    assign: SetOption = None,
    path: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("profile.yaml"),
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of each shape; the median counts.")] = 3,
    server: Annotated[
        str | None, typer.Option("--server", help="HTTP address of a running, idle cluster: measure around steps, too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what steps and hand-offs of the configured model cost on this machine, for `triptych simulate`."""
    from services.cli.measure import measure

    raise typer.Exit(measure(Output(), load_config(config, assign or []), path, repeats, server, as_json))


@app.command("replay-decisions", epilog=examples("triptych replay-decisions decisions/*.jsonl --json"))
def replay_decisions(
    logs: Annotated[list[Path], typer.Argument(help="Decision logs (record.folder), one a process.")],
    as_json: JsonOption = False,
) -> None:
    """Feed recorded events to the same state machines and compare every action and state."""
    from services.cli.replay import show_replay

    raise typer.Exit(show_replay(Output(), logs, as_json))


app.add_typer(keys_app, name="keys")
app.add_typer(cache_app, name="cache")


@app.callback()
def credentials(
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="TRIPTYCH_API_KEY",
            help="Sent with every call; the variable hides it from process lists.",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", envvar="TRIPTYCH_CA_FILE", help="PEM file: calls use TLS and trust this authority."),
    ] = None,
) -> None:
    """Options before the subcommand."""
    if api_key is not None or ca_file is not None:
        from services.cli.client import access

        access.api_key, access.ca_file = api_key, ca_file


def main() -> None:
    """Entry point: errors of ours are one message without a traceback."""
    try:
        if sys.argv[1:2] in (["simulate"], ["plan"]):
            compiled.prefer(Output(), os.environ)
        app()
    except StartupError as error:
        Output().error(error.message)
        sys.exit(EXIT_CANNOT_START)
    except TriptychError as error:
        Output().error(error.message)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
