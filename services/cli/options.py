"""Options that several commands share, and the examples at the end of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
SvgOption = Annotated[Path | None, typer.Option("--svg", help="Also write what is shown as a picture.")]
WaitOption = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until it is so; 0: none.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the cluster (cluster.name).")]
StateOption = Annotated[Path, typer.Option("--state-folder", help="Where state files and models are kept.")]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "Examples:\n\n" + "\n\n".join(lines)
