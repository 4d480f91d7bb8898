"""Options of `loadgen replay` and `loadgen search` in groups: every field of a class is one option of the command line.

What belongs together is checked here; what a single value may be is checked where it is used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from loadgen.plan import CLOSED, DISCONNECT, OPEN, Clients, Lengths, check_choice
from services.core.errors import ConfigError
from services.core.slo import Slo

PART, LENGTHS, CLIENTS, TARGET, RUN = (
    "Which part of the trace, and how fast",
    "Prompts and lengths of a trace",
    "What clients of a trace do wrong",
    "Target",
    "Run and judgement",
)


@dataclass(frozen=True, slots=True)
class Option:
    """How a field is asked for.

    Attributes:
        help: one or two sentences.
        names: on the command line; none is `--` and the field's name.
        panel: heading in `--help`.
        least, most: bounds that the command line checks.
        environment: variable that it is read from where it is not given.
    """

    help: str
    names: tuple[str, ...] = ()
    panel: str | None = None
    least: float | None = None
    most: float | None = None
    environment: str | None = None


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """What is sent: a trace, or a file of literal requests."""

    trace: Annotated[Path | None, Option("Trace of any known format: a file, or a folder or tar of session files.")] = (
        None
    )
    workload: Annotated[Path | None, Option("Instead: literal requests as JSON lines.", ("--workload", "-w"))] = None
    format: Annotated[str | None, Option("Format of the trace. Default: found by its columns.")] = None
    scale: Annotated[
        float,
        Option("Arrivals so many times closer: 2 sends twice as fast. The gaps' CV stays.", ("--scale", "--speed")),
    ] = 1.0

    def path(self) -> Path:
        """The one file that is named.

        Raises:
            ConfigError: none, both, or one that is not there; a scale that is none.
        """
        if (self.trace is None) == (self.workload is None):
            given = None if self.trace is None else str(self.trace)
            raise ConfigError("--trace", given, "name a --trace, or literal requests with --workload; not both")
        path = self.trace or self.workload
        assert path is not None
        if self.workload is not None and not path.is_file():
            raise ConfigError("--workload", str(path), "is no file")
        if self.workload is not None and self.format is not None:
            raise ConfigError("--format", self.format, "is for a --trace; a --workload has one format")
        if not 0 < self.scale < float("inf"):
            raise ConfigError("--scale", self.scale, "must be above 0; 2 sends twice as fast")
        return path


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a plan is made of a trace."""

    window_s: Annotated[float | None, Option("Send only a window of so many seconds of the trace.", panel=PART)] = None
    start_s: Annotated[float | None, Option("Where the window begins, on the trace's clock.", panel=PART)] = None
    rate: Annotated[
        float | None,
        Option("Instead: the window whose requests per second come nearest. The head is rarely typical.", panel=PART),
    ] = None
    keep_sessions: Annotated[float, Option("Share of sessions to keep, each as a whole.", panel=PART)] = 1.0
    session_rate: Annotated[
        float, Option("Begin so many sessions a second, for traces of agents that do not say when.", panel=PART)
    ] = 0.0
    dither_s: Annotated[
        float, Option("Spread times that the trace rounded down to such ticks (Mooncake: 3, BurstGPT: 1).", panel=PART)
    ] = 0.0
    turns: Annotated[
        str,
        Option(
            "closed: turns with think times wait for the turn before. open: all come at their own times.", panel=PART
        ),
    ] = CLOSED
    length_scale: Annotated[
        float, Option("Prompts and outputs so many times as long; sharing stays.", panel=LENGTHS)
    ] = 1.0
    output_scale: Annotated[float | None, Option("Of outputs alone, where it differs.", panel=LENGTHS)] = None
    max_input_tokens: Annotated[int | None, Option("Cut longer prompts; counted.", panel=LENGTHS)] = None
    max_output_tokens: Annotated[int | None, Option("Cut longer outputs; counted.", panel=LENGTHS)] = None
    vocab_size: Annotated[int, Option("Prompts are token ids below this.", panel=LENGTHS)] = 32_000
    tokenizer: Annotated[
        Path | None, Option("tokenizer.json, or its folder: prompts of words that are one token each.", panel=LENGTHS)
    ] = None
    text: Annotated[bool, Option("Send text in place of token ids; needs --tokenizer.", ("--text",), panel=LENGTHS)] = (
        False
    )
    failed_rows: Annotated[
        str,
        Option(
            "Requests that failed in the trace. disconnect: sent, and left at the first token. leave-out: not sent.",
            panel=CLIENTS,
        ),
    ] = DISCONNECT
    disconnect_share: Annotated[float, Option("Share of clients that leave within the output.", panel=CLIENTS)] = 0.0
    slow_reader_share: Annotated[float, Option("Share of clients that read slowly.", panel=CLIENTS)] = 0.0
    read_delay_s: Annotated[float, Option("How long a slow reader waits before each read.", panel=CLIENTS)] = 0.5
    deadline_s: Annotated[float | None, Option("Clients give up so long after the intended time.", panel=CLIENTS)] = (
        None
    )

    def lengths(self) -> Lengths:
        """How lengths are fitted."""
        output_scale = self.length_scale if self.output_scale is None else self.output_scale
        return Lengths(self.length_scale, output_scale, self.max_input_tokens, self.max_output_tokens)

    def clients(self) -> Clients:
        """What clients do wrong."""
        return Clients(
            self.failed_rows, self.disconnect_share, self.slow_reader_share, self.read_delay_s, self.deadline_s
        )

    def closed_loop(self) -> bool:
        """Whether turns wait for each other."""
        check_choice("--turns", self.turns, CLOSED, OPEN)
        return self.turns == CLOSED

    def refuse_for_workload(self) -> None:
        """Literal requests say everything themselves.

        Raises:
            ConfigError: an option was given that would do nothing.
        """
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                name = "--" + each.name.replace("_", "-")
                raise ConfigError(name, value, "is for a --trace; requests of --workload say this themselves")


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Where it is sent."""

    target: Annotated[
        str | None, Option("grpc://host:port, http://host:port, https://host", ("--target", "-t"), panel=TARGET)
    ] = None
    model: Annotated[str | None, Option("Default: the first that the server lists.", panel=TARGET)] = None
    api_key: Annotated[str | None, Option("Bearer token.", panel=TARGET, environment="LOADGEN_API_KEY")] = None
    chat: Annotated[bool, Option("Text prompts go to /v1/chat/completions.", ("--chat",), panel=TARGET)] = False
    ignore_eos: Annotated[bool, Option("Ask for exact output lengths.", panel=TARGET)] = True
    keep_alive: Annotated[bool, Option("Reuse HTTP connections.", panel=TARGET)] = True


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How it is sent and judged."""

    slo_ttft_ms: Annotated[float | None, Option("Bound of the time to first token.", panel=RUN, least=0)] = None
    slo_tpot_ms: Annotated[float | None, Option("Bound of the mean time per output token.", panel=RUN, least=0)] = None
    timeout_s: Annotated[float, Option("End a request after so long.", panel=RUN, least=0.001)] = 600.0
    processes: Annotated[int, Option("How many processes send.", panel=RUN, least=1, most=64)] = 1
    max_in_flight: Annotated[int, Option("More requests wait, and count as sent late.", panel=RUN, least=1)] = 4096
    max_lag_ms: Annotated[float, Option("Above this p99 of send lag the run fails.", panel=RUN, least=0)] = 25.0
    seed: Annotated[
        int, Option("Of everything that is drawn: prompts, dither, faults, intervals.", panel=RUN, least=0)
    ] = 0

    def slo(self) -> Slo:
        """What requests are judged by."""
        return Slo(self.slo_ttft_ms, self.slo_tpot_ms)
