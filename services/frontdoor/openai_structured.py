"""What bodies of the OpenAI API say of the output's form: OpenAI's field, vLLM's, and vLLM's older ones, as one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from services.core.errors import UnsupportedFieldError
from services.frontdoor.openai_schema import Generation, ResponseFormat, StructuredOutputs
from services.frontdoor.structured import KINDS, StructuredError
from services.pb import inference_pb2 as pb

Asked = tuple[str, str, Any]
"""The client's name of a field, the kind of the message, and its value."""


def structured_of(body: Generation, echo: bool = False) -> tuple[pb.Structured | None, Mapping[str, str]]:
    """What the output must be, and the client's names of the message's fields; None for any text.

    Args:
        echo: whether the answer begins with the prompt.

    Raises:
        StructuredError: several are given, one is incomplete or not known, or the answer could not be of that form.
        UnsupportedFieldError: an option that is not there.
    """
    found = list(asked(body))
    if not found:
        return None, {}
    field, kind, value = found[0]
    if len(found) > 1:
        other = found[1]
        text = f"is given together with {field}; give one of them"
        raise StructuredError(other[0], text, kind=other[1], why="contradictory")
    if echo:
        text = f"puts the prompt before an output that {field} is about; leave one of them out"
        raise StructuredError("echo", text, kind=kind, why="contradictory")
    message = pb.Structured()
    if kind == "choice":
        message.choice.texts.extend(value)
        message.choice.SetInParent()  # an empty list was given, too
    else:
        setattr(message, kind, value)
    return message, {"structured": field, **{f"structured.{each}": field for each in KINDS}}


def asked(body: Generation) -> Iterator[Asked]:
    """Every form that a body asks for."""
    if body.response_format is not None:
        yield from of_response_format(body.response_format)
    if body.structured_outputs is not None:
        yield from of_structured_outputs(body.structured_outputs)
    if body.guided_json is not None:
        yield "guided_json", "json_schema", schema_text(body.guided_json, "guided_json")
    for kind in ("regex", "choice", "grammar"):
        if (value := getattr(body, f"guided_{kind}")) is not None:
            yield f"guided_{kind}", kind, value


def of_response_format(given: ResponseFormat) -> Iterator[Asked]:
    """OpenAI's field; a `strict` that is false is taken as true."""
    match given.type:
        case "text":
            return
        case "json_object":
            yield "response_format", "json_object", True
        case "json_schema":
            field = "response_format.json_schema"
            if given.json_schema is None or given.json_schema.schema_ is None:
                where = field if given.json_schema is None else f"{field}.schema"
                raise StructuredError(where, "is missing; give a JSON Schema", kind="json_schema")
            yield f"{field}.schema", "json_schema", schema_text(given.json_schema.schema_, f"{field}.schema")
        case other:
            text = f"{other[:40]!r} is not one of text, json_object and json_schema"
            raise StructuredError("response_format.type", text)


def of_structured_outputs(given: StructuredOutputs) -> Iterator[Asked]:
    """vLLM's field."""
    for name, value in (given.model_extra or {}).items():
        if value not in (None, False):
            raise UnsupportedFieldError(f"structured_outputs.{name}", "is not supported here; leave it out")
    if given.json_ is not None:
        yield "structured_outputs.json", "json_schema", schema_text(given.json_, "structured_outputs.json")
    if given.json_object:
        yield "structured_outputs.json_object", "json_object", True
    for kind in ("regex", "choice", "grammar"):
        if (value := getattr(given, kind)) is not None:
            yield f"structured_outputs.{kind}", kind, value


def schema_text(schema: dict[str, Any] | str, field: str) -> str:
    """A schema as JSON text, in the order in which the client wrote it.

    Raises:
        StructuredError: it holds a number that JSON does not have, or is nested too deep.
    """
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise StructuredError(field, f"cannot be written as JSON: {error}", kind="json_schema") from error
