"""`triptych chat`: one prompt or a conversation, streamed as it is computed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from services.cli.client import ServerError, generate
from services.cli.output import EXIT_OK, Output
from services.core.clock import NS_PER_MS, NS_PER_S, WallClock
from services.pb import inference_pb2


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What the command line asks for; None leaves the choice to the server."""

    server: str
    system: str | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    timeline: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer.

    Attributes:
        text: what the model said.
        ttft_ms: from sending the request to the first token here.
        tokens_per_s: after the first token; 0 below two tokens.
    """

    text: str
    output_tokens: int
    cached_tokens: int
    ttft_ms: float
    tokens_per_s: float
    timeline: tuple[inference_pb2.TimelineEvent, ...]

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        marks = [
            {"name": mark.name, "worker": mark.worker, "pid": mark.pid, "offset_ms": mark.offset_us / 1000}
            for mark in self.timeline
        ]
        numbers = {name: getattr(self, name) for name in ("output_tokens", "cached_tokens", "ttft_ms", "tokens_per_s")}
        return {"text": self.text, **numbers, "timeline": marks}


def chat(output: Output, prompt: str | None, options: ChatOptions) -> int:
    """Answer one prompt (from the command line, or from stdin when that is no terminal), or talk.

    Raises:
        ServerError: the single prompt failed. A failed turn of a conversation is only shown.
    """
    before = [_message("system", options.system)] if options.system else []
    if prompt is None and (options.as_json or not sys.stdin.isatty()):
        prompt = sys.stdin.read().strip()
    if prompt is not None:
        _answer(output, [*before, _message("user", prompt)], options)
        return EXIT_OK
    output.note("Ctrl-C stops an answer, Ctrl-D ends the conversation.")
    history: list[inference_pb2.Message] = before
    while (line := _ask(output)) is not None:
        if not line.strip():
            continue
        question = _message("user", line)
        try:
            turn = _answer(output, [*history, question], options)
        except ServerError as error:
            output.error(error.message)
            continue
        except KeyboardInterrupt:
            output.line()
            output.note("stopped; this turn is forgotten")
            continue
        history += [question, _message("assistant", turn.text)]
    return EXIT_OK


def request_for(messages: list[inference_pb2.Message], options: ChatOptions) -> inference_pb2.GenerateRequest:
    """The request of one turn."""
    sampling = inference_pb2.Sampling(temperature=options.temperature, max_tokens=options.max_tokens, seed=options.seed)
    return inference_pb2.GenerateRequest(messages=messages, sampling=sampling, include_timeline=options.timeline)


def _message(role: str, text: str) -> inference_pb2.Message:
    return inference_pb2.Message(role=role, content=[inference_pb2.ContentPart(text=text)])


def _ask(output: Output) -> str | None:
    """The next question, or None at the end."""
    try:
        return output.err.input("[bold]> [/bold]")
    except (EOFError, KeyboardInterrupt):
        output.line()
        return None


def _answer(output: Output, messages: list[inference_pb2.Message], options: ChatOptions) -> Turn:
    """Stream one answer to stdout, then say what it cost."""
    turn = _stream(output, messages, options)
    if options.as_json:
        output.json(turn.data())
        return turn
    speed = f" · {turn.tokens_per_s:.1f} tok/s" if turn.tokens_per_s else ""
    cached = f" · {turn.cached_tokens} prompt tokens cached" if turn.cached_tokens else ""
    output.note(f"TTFT {turn.ttft_ms:.0f} ms · {turn.output_tokens} tokens{speed}{cached}")
    for event in turn.timeline:
        output.note(f"{event.offset_us / 1000:9.1f} ms  {event.name:<18} {event.worker} (pid {event.pid})")
    return turn


def _stream(output: Output, messages: list[inference_pb2.Message], options: ChatOptions) -> Turn:
    clock = WallClock()
    sent_ns = clock.now_ns()
    first_ns = last_ns = 0
    text: list[str] = []
    timeline: tuple[inference_pb2.TimelineEvent, ...] = ()
    usage = inference_pb2.Usage()
    for response in generate(options.server, request_for(messages, options)):
        match response.WhichOneof("event"):
            case "delta":
                last_ns = clock.now_ns()
                first_ns = first_ns or last_ns
                text.append(response.delta.text)
                if not options.as_json:
                    output.out.file.write(response.delta.text)
                    output.out.file.flush()
            case "finished":
                timeline = tuple(response.finished.timeline)
            case "usage":
                usage = response.usage
    if not options.as_json:
        output.line()
    seconds = (last_ns - first_ns) / NS_PER_S
    rate = (usage.output_tokens - 1) / seconds if usage.output_tokens > 1 and seconds > 0 else 0.0
    ttft_ms = (first_ns - sent_ns) / NS_PER_MS if first_ns else 0.0
    return Turn("".join(text), usage.output_tokens, usage.cached_tokens, ttft_ms, rate, timeline)
