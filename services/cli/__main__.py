"""The `triptych` command: its subcommands and their options.

The only file that reads the environment: `up` marks its own process, so that every process of the cluster inherits
the mark and `down` finds them all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.keys import keys_app
from services.cli.output import EXIT_CANNOT_START, EXIT_FAILED, EXIT_INTERRUPTED, Output
from services.cli.settings import load_config, state_folder
from services.cluster.topology import CLUSTER_VARIABLE, cluster_environment
from services.core.errors import StartupError, TriptychError
from services.core.seeds import new_incarnation

app = typer.Typer(
    name="triptych",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Serve large language models from separate prefill and decode workers that hand over KV cache.\n\n"
        "Start a cluster with `triptych up`, talk to it with `triptych chat`, look at it with `triptych status`, "
        "end it with `triptych down` or Ctrl-C.\n\n"
        "Exit status: 0 done; 1 the command ran and failed; 2 it could not start (options, configuration, model, "
        "ports, memory); 130 interrupted."
    ),
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; without it the defaults: one prefill, one decode.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one key, e.g. --set model.dtype=float32; may be given several times."),
]
ServerOption = Annotated[
    str | None, typer.Option("--server", help="host:port of a front door; default: the cluster that runs here.")
]
NameOption = Annotated[str, typer.Option("--name", help="Name of the cluster (cluster.name).")]
StateOption = Annotated[Path, typer.Option("--state-folder", help="Where state files and models are kept.")]


@app.command()
def up(
    config: ConfigOption = None,
    assign: SetOption = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="Same as --set frontdoor.http_port=N.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Same as --set frontdoor.grpc_port=N.")] = None,
    folder: Annotated[Path | None, typer.Option("--state-folder", help="Same as --set state_folder=DIR.")] = None,
) -> None:
    """Start a cluster on this machine and stay in the foreground.

    The last lines on stdout are `ready`, the addresses, and requests to copy. The first Ctrl-C lets running requests
    finish, the second ends at once; neither leaves a process behind.
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
    code = run(complete, cluster_id)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray's own exit handlers would wait for the processes that are gone by now


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    server: ServerOption = None,
    name: NameOption = "triptych",
    folder: StateOption = Path("~/.triptych"),
) -> None:
    """Show the workers: role, process, KV blocks, load."""
    from services.cli.client import find_server
    from services.cli.status import show_status

    raise typer.Exit(show_status(Output(), find_server(server, folder.expanduser(), name), as_json))


@app.command()
def down(
    config: ConfigOption = None,
    assign: SetOption = None,
    every: Annotated[bool, typer.Option("--all", help="End every cluster of this user.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Do not let running requests finish.")] = False,
) -> None:
    """End a cluster from outside, also one whose `up` was killed; no process is left."""
    from services.cli.down import end_all, end_named

    if every:
        raise typer.Exit(end_all(Output()))
    complete = load_config(config, assign or [])
    raise typer.Exit(end_named(Output(), state_folder(complete), complete.cluster.name, now))


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One prompt; without it a conversation (or stdin).")] = None,
    server: ServerOption = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Show each phase with its worker and process.")] = False,
    name: NameOption = "triptych",
    folder: StateOption = Path("~/.triptych"),
) -> None:
    """Ask the model: streams the answer, then shows TTFT and tokens per second."""
    from services.cli.chat import ChatOptions
    from services.cli.chat import chat as run
    from services.cli.client import find_server

    options = ChatOptions(find_server(server, folder.expanduser(), name), temperature, max_tokens, seed, timeline)
    raise typer.Exit(run(Output(), prompt, options))


@app.command("replay-decisions")
def replay_decisions(
    logs: Annotated[list[Path], typer.Argument(help="Decision logs (record.folder), one a process.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Feed recorded events to the same state machines and compare every action and state."""
    from services.cli.replay import show_replay

    raise typer.Exit(show_replay(Output(), logs, as_json))


app.add_typer(keys_app, name="keys")


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
