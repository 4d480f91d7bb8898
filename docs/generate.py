"""Writes the reference pages of docs/ from what the product itself declares; `make docs` runs it.

configuration.md   the pydantic models
metrics.md         services/telemetry/metrics.py
troubleshooting.md what `triptych doctor` knows
grpc.md            the comments of proto/
http.md            the OpenAPI document
commands.md        the help of the command line
"""

from __future__ import annotations

import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import typer.main
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.cli.__main__ import app
from services.cli.findings import PROBLEMS, Severity
from services.cluster.config import ClusterConfig
from services.frontdoor.http_app import make_app
from services.frontdoor.openai_http import OpenAiApi
from services.telemetry.exporter import Exporter
from services.telemetry.metrics import METRICS, Metric

DOCS = Path(__file__).parent
PROTO = DOCS.parent / "proto" / "triptych" / "v1"
NOTE = "<!-- Written by `make docs`; change what it is made of instead. -->"


def page(title: str, lines: Iterator[str]) -> str:
    """A whole page."""
    return "\n".join([f"# {title}", "", NOTE, "", *lines]).rstrip() + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


# --- configuration ----------------------------------------------------------------------------------------------


def configuration() -> str:
    """Every key, section by section."""
    return page("Configuration", configuration_lines())


def configuration_lines() -> Iterator[str]:
    yield "One YAML file drives `triptych up` (`--config FILE`); any key can be given on the command line as"
    yield "`--set a.b=value`. Unknown keys are refused with the nearest known one. `deploy/config/laptop.yaml` is the"
    yield "default configuration with every key written out. Scalars carry their unit in their name."
    yield ""
    yield from model_lines("", ClusterConfig)


def model_lines(path: str, model: type[BaseModel]) -> Iterator[str]:
    """A table of a model's own keys, then its sections."""
    plain = {name: field for name, field in model.model_fields.items() if section_of(field) is None}
    if path:
        yield f"## `{path}`"
        yield ""
        yield (model.__doc__ or "").split("\n\n")[0].strip()
        yield ""
    if plain:
        rows = [
            (f"`{name}`", type_text(field), default_text(field), field.description or "")
            for name, field in plain.items()
        ]
        yield from table(("key", "type", "default", "meaning"), rows)
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is not None:
            yield from model_lines(f"{path}.{name}".lstrip("."), section)


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a key holds, or None for a plain value."""
    candidates = [field.annotation, *typing.get_args(field.annotation)]
    if typing.get_origin(field.annotation) not in (None, types.UnionType, typing.Union):
        return None
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def type_text(field: FieldInfo) -> str:
    """The type and its bounds, for people."""
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(rule, name)
    ]
    return ", ".join([annotation_text(field.annotation), *bounds])


def annotation_text(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(annotation_text, arguments))
    if origin is tuple:
        return "list" if Ellipsis in arguments else f"list of {len(arguments)}"
    if origin is dict:
        return "map"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{list(value) if isinstance(value, tuple) else value}`"


# --- metrics ----------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric by process."""
    return page("Metrics", metrics_lines())


def metrics_lines() -> Iterator[str]:
    yield "Prometheus text (OpenMetrics for scrapers that accept it) at `/metrics`: every process on a port of its own"
    yield "of `telemetry.metrics_ports`, which `triptych status --json` tells as `metrics_address`; front doors on"
    yield "their HTTP port too, where one of those that share it answers. Names and buckets are vLLM's under the prefix"
    yield "`triptych_` where vLLM has the same metric."
    yield "A front door shows every worker that it knows beside its own requests; whoever scrapes workers too should"
    yield "add up by `max by (worker, ...)`, not by `sum`. Each process also has the usual `process_*` metrics. A label"
    yield "takes at most 200 values; later ones are counted as `other`."
    yield ""
    for place in dict.fromkeys(metric.place for metric in METRICS):
        yield f"## {place.value.capitalize()}"
        yield ""
        rows = [metric_row(metric) for metric in METRICS if metric.place is place]
        yield from table(("name", "type", "unit", "labels", "meaning"), rows)
    yield "## Buckets"
    yield ""
    named: dict[tuple[float, ...], list[str]] = {}
    for metric in METRICS:
        if metric.buckets:
            named.setdefault(metric.buckets, []).append(f"`{metric.name}`")
    for buckets, names in named.items():
        yield f"{', '.join(names)}: {', '.join(f'{bound:g}' for bound in buckets)}."
        yield ""


def metric_row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}`", metric.kind.value, metric.unit, labels, metric.help


# --- troubleshooting --------------------------------------------------------------------------------------------


def troubleshooting() -> str:
    """Every fault that doctor finds."""
    return page("Troubleshooting", troubleshooting_lines())


def troubleshooting_lines() -> Iterator[str]:
    yield "`triptych doctor` looks for all of these and names the place; `--json` gives the codes. Errors keep a"
    yield "cluster from starting or serving (exit status 1), warnings do not."
    yield ""
    for severity in (Severity.ERROR, Severity.WARNING):
        yield f"## {severity.value.capitalize()}s"
        yield ""
        for problem in (each for each in PROBLEMS if each.severity is severity):
            yield f"### {problem.title} (`{problem.code}`)"
            yield ""
            yield problem.means
            yield ""
            yield f"**Fix:** {problem.fix}"
            yield ""


# --- gRPC -------------------------------------------------------------------------------------------------------

MESSAGES, SERVICES, ENUMS = 4, 6, 5  # field numbers of FileDescriptorProto
NESTED_FIELDS, METHODS, VALUES = 2, 2, 2


def grpc() -> str:
    """Services, messages and enums with the comments of the proto files."""
    return page("gRPC API", grpc_lines())


def grpc_lines() -> Iterator[str]:
    yield "Package `triptych.v1`, port 50051. Reflection is on: `grpcurl -plaintext HOST:50051 list`. Failures are"
    yield '`google.rpc.Status` with details; see the comment of each method. `grpc.health.v1.Health` answers for `""`'
    yield "and for each service."
    yield ""
    for file in described():
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

        def said(*path: int, comments: dict[tuple[int, ...], str] = comments) -> str:
            return " ".join(comments.get(path, "").split())

        for number, service in enumerate(file.service):
            yield f"## {service.name}"
            yield ""
            yield said(SERVICES, number)
            yield ""
            rows = []
            for place, method in enumerate(service.method):
                takes, gives = (f"`{name.rpartition('.')[2]}`" for name in (method.input_type, method.output_type))
                stream = "stream of " if method.server_streaming else ""
                rows.append((f"`{method.name}`", takes, stream + gives, said(SERVICES, number, METHODS, place)))
            yield from table(("method", "takes", "gives", "meaning"), rows)
        for number, message in enumerate(file.message_type):
            yield f"### {message.name}"
            yield ""
            yield said(MESSAGES, number)
            yield ""
            rows = [
                (f"`{field.name}`", kind(message, field), said(MESSAGES, number, NESTED_FIELDS, place))
                for place, field in enumerate(message.field)
            ]
            if rows:
                yield from table(("field", "type", "meaning"), rows)
        for number, enum in enumerate(file.enum_type):
            yield f"### {enum.name}"
            yield ""
            yield said(ENUMS, number)
            yield ""
            values = [(f"`{value.name}`", said(ENUMS, number, VALUES, place)) for place, value in enumerate(enum.value)]
            yield from table(("value", "meaning"), values)


def described() -> list[FileDescriptorProto]:
    """The proto files with their comments."""
    files = sorted(path.name for path in PROTO.glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set.bin"
        code = protoc.main(["protoc", f"-I{PROTO}", "--include_source_info", f"--descriptor_set_out={target}", *files])
        assert code == 0, "protoc failed"
        return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def kind(message: Any, field: Any) -> str:
    """A field's type as the proto file writes it."""
    name = field.type_name.rpartition(".")[2] or field.Type.Name(field.type).removeprefix("TYPE_").lower()
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    if name in entries:
        key, value = entries[name].field
        return f"map of {kind(message, key)} to {kind(message, value)}"
    if field.label == field.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


# --- HTTP -------------------------------------------------------------------------------------------------------


def http() -> str:
    """Paths and bodies of the OpenAPI document that the front door serves."""
    return page("HTTP API", http_lines())


def http_lines() -> Iterator[str]:
    yield "Port 8000, the OpenAI API for the official clients and health for everybody else. The same as OpenAPI:"
    yield "`/openapi.json`. Keys go into `Authorization: Bearer KEY`. Every failure is"
    yield '`{"error": {"message", "type", "param", "code"}}`; 429 and 503 say when to come back in `Retry-After`.'
    yield "Fields that are not listed are accepted and ignored, but for those of the OpenAI API that would change the"
    yield "answer: they are refused with 400 and their name. `/metrics` is for Prometheus."
    yield ""
    document = served_document()
    rows = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            text = told.get("description") or told.get("summary", "")
            rows.append((f"`{method.upper()} {path}`", " ".join(text.split()), ", ".join(sorted(told["responses"]))))
    yield from table(("path", "meaning", "statuses"), rows)
    for name, schema in document["components"]["schemas"].items():
        if schema.get("properties"):
            yield f"### {name}"
            yield ""
            yield " ".join(schema.get("description", "").split())
            yield ""
            wanted = schema.get("required", [])
            fields = [
                (f"`{field}`{' (required)' if field in wanted else ''}", json_type(told), told.get("description", ""))
                for field, told in schema["properties"].items()
            ]
            yield from table(("field", "type", "meaning"), fields)


def served_document() -> dict[str, Any]:
    """The OpenAPI document, from an application that never runs and therefore needs no parts."""
    api = OpenAiApi(MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    document: dict[str, Any] = make_app(lambda: True, "", "1", Exporter("frontdoor"), api).openapi()
    return document


def json_type(told: dict[str, Any]) -> str:
    """A property's type, for people."""
    if "anyOf" in told:
        return " or ".join(dict.fromkeys(map(json_type, told["anyOf"])))
    if "$ref" in told:
        return f"[{told['$ref'].rpartition('/')[2]}](#{told['$ref'].rpartition('/')[2].lower()})"
    if told.get("type") == "array":
        return f"list of {json_type(told.get('items', {}))}"
    return "null" if told.get("type") == "null" else str(told.get("const") or told.get("type", "any"))


# --- commands ---------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options."""
    return page("Commands", command_lines())


def command_lines() -> Iterator[str]:
    root = typer.main.get_command(app)
    yield root.help or ""
    yield ""
    yield from parameter_lines(root)
    yield from group_lines("triptych", root)


def group_lines(path: str, group: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"## `{path} {name}`"
        yield ""
        yield " ".join((command.help or "").split("\f")[0].split())
        yield ""
        yield from parameter_lines(command)
        if command.epilog:
            yield "```sh"
            yield from (line for line in command.epilog.splitlines() if line and line != "Examples:")
            yield "```"
            yield ""
        if hasattr(command, "commands"):
            yield from group_lines(f"{path} {name}", command)


def parameter_lines(command: Any) -> Iterator[str]:
    rows = []
    for parameter in command.params:
        names = (
            parameter.opts if parameter.param_type_name == "option" else [parameter.metavar or parameter.name.upper()]
        )
        if parameter.name not in ("install_completion", "show_completion"):
            rows.append((", ".join(f"`{name}`" for name in names), getattr(parameter, "help", "") or ""))
    if rows:
        yield from table(("option", "meaning"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "metrics.md": metrics,
    "troubleshooting.md": troubleshooting,
    "grpc.md": grpc,
    "http.md": http,
    "commands.md": commands,
}


def main() -> int:
    """Write all pages."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
