"""Chat templates: Jinja in a sandbox, with every name and tag that Hugging Face's templates are written for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.core.clock import Clock
from services.core.errors import InvalidRequestError, ModelError

Chat = Sequence[Mapping[str, str]]
"""Turns of a conversation: {"role": ..., "content": ...}."""


class GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant said, for training; its text stays as it is."""

    tags = {"generation"}  # noqa: RUF012 -- Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's content, in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class ChatTemplate:
    """The chat template of one model folder; safe to use from several threads.

    Args:
        special_names: text of the special tokens by name, such as `bos_token`.
        clock: the date that some templates write.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], special_names: Mapping[str, str], clock: Clock
    ) -> None:
        """Compile chat_template.jinja, else the entry of tokenizer_config.json.

        Raises:
            ModelError: the template is not valid Jinja.
        """
        self._names = special_names
        source = read_source(folder, settings)
        try:
            self._template = None if source is None else environment(clock).from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"{folder}: its chat template is not valid Jinja: {error}") from error

    def render(self, messages: Chat) -> str:
        """The text of a conversation up to the point where the assistant is to speak.

        Raises:
            InvalidRequestError: there is no template, or it refuses these messages.
        """
        if self._template is None:
            raise InvalidRequestError("messages", "this model has no chat template; send `prompt` instead")
        # None, not left out: templates ask both whether these are defined and whether they are none.
        absent = {"tools": None, "documents": None}
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True, **absent, **self._names)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError("messages", f"the model's chat template refuses them: {error}") from error


def read_source(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The template's text; None when there is none."""
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default")
    return source


def environment(clock: Clock) -> ImmutableSandboxedEnvironment:
    """Jinja as Hugging Face's templates expect it: trimmed blocks, `tojson` without HTML, and three more names."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock]
    )
    found.filters["tojson"] = to_json
    found.globals["raise_exception"] = refuse
    found.globals["strftime_now"] = date_of(clock)
    return found


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON with the options that templates give."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def date_of(clock: Clock) -> Callable[[str], str]:
    """`strftime_now(format)`: this moment in local time."""
    return lambda format: datetime.fromtimestamp(clock.unix_ms() / 1000).strftime(format)


def refuse(message: str) -> None:
    """What templates call when they do not like a conversation."""
    raise jinja2.TemplateError(message)
