"""Configuration that every component shares, and the one way from YAML data to frozen models."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.core.errors import ConfigError

DEFAULT_MODEL = "smollm2-135m-instruct"

ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """Base of every configuration model: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Strict):
    """Which model is served, and how precisely."""

    path: str = Field(
        DEFAULT_MODEL,
        description=f"Hugging Face folder with safetensors, a .gguf file, or {DEFAULT_MODEL!r} (the bundled default).",
    )
    name: str | None = Field(None, description="Name that clients use; default: last part of the path.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float16", description="Weights and arithmetic (architecture section 7). float32 is batch-invariant."
    )
    max_model_len_tokens: int | None = Field(
        None, ge=16, description="Longest prompt plus output; default: the model's own context window."
    )

    @property
    def served_name(self) -> str:
        """The name that clients use."""
        return self.name or self.path.rstrip("/").split("/")[-1].removesuffix(".gguf")


class TestingConfig(Strict):
    """Hooks for tests. Everything here is refused unless `enabled`."""

    enabled: bool = Field(False, description="Allow the hooks below.")
    logits_digests: bool = Field(False, description="Record SHA-256 of each sampled row's float32 logits.")
    check: bool = Field(True, description="Where `enabled`: assert every invariant after each event of a worker.")
    step_ms: float | None = Field(
        None, gt=0, description="Steps wait so long and compute nothing, to load everything around the model."
    )
    fault: str | None = Field(
        None, description="`<point>:<fault>[@<worker id>]`, e.g. `token=5:kill@decode-0` (protocol section 10)."
    )


class CostConfig(Strict):
    """Coefficients of `core/cost.py`, in milliseconds; the defaults are of the default model on one slow core."""

    prefill_ms: float = Field(20.0, ge=0, description="Fixed time of a prompt.")
    prefill_token_ms: float = Field(4.0, ge=0, description="Time of each prompt token.")
    prefill_pair_ms: float = Field(0.0005, ge=0, description="Time of each pair of a token and one it looks at.")
    decode_step_ms: float = Field(40.0, ge=0, description="Fixed time of a decode step.")
    decode_row_ms: float = Field(2.0, ge=0, description="Time of each request in a decode step.")
    decode_context_ms: float = Field(0.002, ge=0, description="Time of each token that a decode step looks at.")
    encode_ms: float = Field(20.0, ge=0, description="Fixed time of a step of images.")
    encode_token_ms: float = Field(1.0, ge=0, description="Time of each token of an image's embedding.")
    transfer_ms: float = Field(20.0, ge=0, description="Fixed time of a hand-off.")
    transfer_token_ms: float = Field(0.05, ge=0, description="Time of each token's KV in a hand-off.")


def parse(cls: type[ModelT], data: Mapping[str, Any], path: str = "") -> ModelT:
    """Validate plain data into a model.

    Raises:
        ConfigError: the first bad key, with its dotted path, the value found and what to write instead.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (path, *first["loc"]) if part != "")
        raise ConfigError(where, first.get("input"), _fix(cls, first)) from error


def _fix(cls: type[BaseModel], error: Any) -> str:
    """What to write instead, as a sentence."""
    if error["type"] != "extra_forbidden":
        return str(error["msg"]).removeprefix("Value error, ")
    known = _fields_at(cls, error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}remove it or use one of: {', '.join(known)}" if known else "unknown key; remove it"


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys that are allowed at `loc`, [] when it is not a model."""
    current: Any = cls
    for part in loc:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return []
        current = fields[part].annotation
    return sorted(getattr(current, "model_fields", {}))
