"""Requests of the OpenAI API to the messages that gRPC clients send, so that both doors have one set of checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.core.errors import InvalidRequestError, UnsupportedFieldError
from services.frontdoor.openai_schema import ChatCompletionRequest, ChatMessage, CompletionRequest, Generation
from services.pb import inference_pb2 as pb

MAX_PROMPTS = 64
DEFAULT_TEMPERATURE = 1.0
"""OpenAI's; a gRPC request without one is greedy."""
NOTHING: tuple[Any, ...] = (None, False, "", [], {})
REFUSED: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("tools", "functions", "audio", "prediction", "web_search_options", "store", "suffix"), ()),
    **dict.fromkeys(("guided_json_object", "guided_whitespace_pattern", "structural_tag"), ()),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "documents", "continue_final_message"), ()),
    **dict.fromkeys(("use_beam_search", "bad_words", "allowed_token_ids", "truncate_prompt_tokens"), ()),
    **dict.fromkeys(("logits_processors", "include_stop_str_in_output", "prompt_embeds", "prompt_logprobs"), ()),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "length_penalty": (1, 1.0),
}
"""Fields that ask for what is not there, each with the values that ask for nothing (beside those of NOTHING)."""
SAME_NAMES = (
    *("max_tokens", "min_tokens", "top_p", "min_p", "n", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
"""Fields of the sampling message with the same name and meaning."""
DEVELOPER = "developer"
TOOL_ROLES = ("tool", "function")
FIELD = re.compile(r"(?:sampling\.)?([a-z_]+)(.*)", re.DOTALL)


def chat_message(body: ChatCompletionRequest) -> pb.GenerateRequest:
    """The message of a chat; its request id is still missing.

    Raises:
        InvalidRequestError: a field cannot be said in a message; `field` is the client's name for it.
    """
    check_refused(body, {"echo": ()})
    message = pb.GenerateRequest(model=body.model)
    for place, turn in enumerate(body.messages):
        role = "system" if turn.role == DEVELOPER else turn.role
        parts = [pb.ContentPart(text=text) for text in texts(turn, f"messages[{place}]")]
        message.messages.append(pb.Message(role=role, content=parts))
    fill_sampling(message, body)
    if body.max_completion_tokens is not None:
        put(message.sampling, "max_tokens", body.max_completion_tokens, "max_completion_tokens")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs", "needs logprobs to be true")
    if body.logprobs:
        put(message.sampling, "logprobs", body.top_logprobs or 0, "top_logprobs")
    return message


def completion_messages(body: CompletionRequest) -> list[pb.GenerateRequest]:
    """One message for each prompt of a completion; their request ids are still missing.

    Raises:
        InvalidRequestError: as `chat_message`.
    """
    check_refused(body, {"best_of": (body.n or 1,), "messages": ()})
    prompts = prompts_of(body.prompt)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequestError("prompt", f"{len(prompts)} prompts; give 1 to {MAX_PROMPTS}")
    messages = []
    for place, prompt in enumerate(prompts):
        where = "prompt" if len(prompts) == 1 else f"prompt[{place}]"
        if not prompt:
            raise InvalidRequestError(where, "is empty; give at least one token")
        message = pb.GenerateRequest(model=body.model)
        if isinstance(prompt, str):
            message.prompt = prompt
        else:
            put(message, "prompt_token_ids", prompt, where)
        fill_sampling(message, body)
        if body.logprobs is not None:
            put(message.sampling, "logprobs", body.logprobs, "logprobs")
            if body.echo:
                message.sampling.prompt_logprobs = message.sampling.logprobs
        messages.append(message)
    return messages


def prompts_of(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[Any]:
    """Each prompt alone, as text or as a list of ids."""
    if isinstance(given, str):
        return [given]
    return [given] if given and isinstance(given[0], int) else list(given)


def fill_sampling(message: pb.GenerateRequest, body: Generation) -> None:
    """The fields that both kinds of completions share."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options", "is only allowed together with stream")
    sampling = message.sampling
    sampling.temperature = DEFAULT_TEMPERATURE if body.temperature is None else body.temperature
    for name in SAME_NAMES:
        value = getattr(body, name)
        if value is not None:
            put(sampling, name, value, name)
    if body.top_k is not None:
        put(sampling, "top_k", 0 if body.top_k == -1 else body.top_k, "top_k")
    if body.priority is not None:
        put(message, "priority", body.priority, "priority")
    sampling.ignore_eos = bool(body.ignore_eos)
    put(sampling, "stop_token_ids", body.stop_token_ids or [], "stop_token_ids")
    put(sampling, "stop", [body.stop] if isinstance(body.stop, str) else body.stop or [], "stop")
    for key, value in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise InvalidRequestError(f"logit_bias[{key[:20]!r}]", "the key is not a token id; write it in digits")
        sampling.logit_bias[int(key)] = value


def put(message: Any, name: str, value: Any, field: str) -> None:
    """Set a field of a message.

    Raises:
        InvalidRequestError: the value is out of what the field can hold.
    """
    try:
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except (ValueError, TypeError) as error:
        shown = "a value" if isinstance(value, list) else str(value)[:40]
        raise InvalidRequestError(field, f"{shown} is out of range") from error


def texts(turn: ChatMessage, where: str) -> list[str]:
    """The texts of a turn.

    Raises:
        UnsupportedFieldError: a kind of content, or a role, that is not there.
        InvalidRequestError: no text.
    """
    extra = turn.model_extra or {}
    for name in ("tool_calls", "function_call", "audio"):
        if extra.get(name) not in NOTHING:
            raise UnsupportedFieldError(f"{where}.{name}", "is not supported here; send text alone")
    if turn.role in TOOL_ROLES:
        raise UnsupportedFieldError(f"{where}.role", f"{turn.role!r} is not supported here; there are no tools")
    if turn.content is None:
        raise InvalidRequestError(f"{where}.content", "is missing; give text")
    if isinstance(turn.content, str):
        return [turn.content]
    found = []
    for place, part in enumerate(turn.content):
        if part.type != "text":
            kind = repr(part.type[:40])
            raise UnsupportedFieldError(f"{where}.content[{place}]", f"{kind} is not supported here; send text alone")
        if part.text is None:
            raise InvalidRequestError(f"{where}.content[{place}].text", "is missing")
        found.append(part.text)
    return found


def check_refused(body: Generation, more: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises:
    UnsupportedFieldError: a field asks for what is not there; such a field is never ignored.
    """
    refused = {**REFUSED, **more}
    for name, value in (body.model_extra or {}).items():
        if name in refused and value not in NOTHING and value not in refused[name]:
            raise UnsupportedFieldError(name, "is not supported here; leave it out")


def in_clients_words(error: InvalidRequestError, names: Mapping[str, str]) -> InvalidRequestError:
    """The same error with the client's name of the field.

    Args:
        names: the client's names of fields of the message, where they differ.
    """
    found = FIELD.fullmatch(error.field)
    assert found is not None, error.field
    field = names.get(found[1] + found[2]) or names.get(found[1], found[1]) + found[2]
    renamed = type(error)(field, error.message.removeprefix(f"{error.field}: "), reason=error.reason)
    renamed.metadata = {**error.metadata, **renamed.metadata}
    return renamed
