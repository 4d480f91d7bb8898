"""Bodies of the OpenAI API as this server reads and writes them; the served OpenAPI document is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# ------------------------------------------------------------------ requests


def whole(text: str) -> str:
    """Raises:
    ValueError: half a surrogate pair, which JSON can say and UTF-8 cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a surrogate stands alone, so this is no text") from None
    return text


Text = Annotated[str, AfterValidator(whole)]


class Body(BaseModel):
    """A request. Fields that are not known are accepted: clients send new ones before servers know them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class TextPart(Body):
    """A piece of a turn; kinds other than text are refused."""

    type: Text = Field(description='"text"; images, audio and files are refused.')
    text: Text | None = None


class ChatMessage(Body):
    """A turn of a conversation."""

    role: Text = Field(description="system, developer (taken as system), user or assistant.")
    content: Text | list[TextPart] | None = None


class StreamOptions(Body):
    """What a stream tells beside its tokens."""

    include_usage: bool | None = Field(None, description="End with a chunk that has no choices but the usage.")


class JsonSchema(Body):
    """A JSON Schema with a name, as OpenAI wants it."""

    name: Text | None = Field(None, description="Accepted, and without effect.")
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="The schema; needed.")
    strict: bool | None = Field(None, description="Accepted; the schema is always kept to.")


class ResponseFormat(Body):
    """What the output must be, as OpenAI has it."""

    type: Text = Field(description="text, json_object (any JSON object) or json_schema.")
    json_schema: JsonSchema | None = Field(None, description="With json_schema.")


class StructuredOutputs(Body):
    """What the output must be, as vLLM has it; exactly one is given."""

    json_: dict[str, Any] | Text | None = Field(None, alias="json", description="A JSON Schema.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    regex: Text | None = Field(None, description="What the whole output matches.")
    choice: list[Text] | None = Field(None, description="One of these texts.")
    grammar: Text | None = Field(None, description="A grammar in Lark's notation, or in llama.cpp's (GBNF).")


class Generation(Body):
    """What both kinds of completions share."""

    model: Text = Field(description="A name from /v1/models.")
    max_tokens: int | None = Field(None, description="Longest output, 1 or more; null: the server's default.")
    temperature: float | None = Field(None, description="0 to 2; 0 always takes the likeliest token; null: 1.")
    top_p: float | None = Field(None, description="Above 0 and up to 1.")
    n: int | None = Field(None, description="Outputs for each prompt, 1 to 16; above 1 only with a temperature.")
    seed: int | None = Field(None, description="0 to 2^63 - 1; the same request with the same seed draws the same.")
    stop: Text | list[Text] | None = Field(None, description="Up to 16 strings that end the output before them.")
    stream: bool | None = Field(None, description="Answer with server-sent events as tokens come.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    presence_penalty: float | None = Field(None, description="-2 to 2.")
    frequency_penalty: float | None = Field(None, description="-2 to 2.")
    logit_bias: dict[str, float] | None = Field(None, description="Token ids to -100 .. 100; at most 300.")
    user: str | None = Field(None, description="Accepted, and without effect.")
    # What other servers of open models understand too.
    top_k: int | None = Field(None, description="Only the k likeliest tokens may be drawn; 0 and -1: all.")
    min_p: float | None = Field(None, description="0 to 1: least share of the likeliest token's probability.")
    repetition_penalty: float | None = Field(None, description="0.01 to 100.")
    ignore_eos: bool | None = Field(None, description="Go on when the model ends its output.")
    min_tokens: int | None = Field(None, description="No end before this many tokens.")
    stop_token_ids: list[int] | None = Field(None, description="At most 64 ids that end the output.")
    priority: int | None = Field(None, description="-100 to 100, higher first; below 0 may be shed first.")
    # What the output must be; one of these.
    response_format: ResponseFormat | None = Field(None, description="OpenAI's field; of a schema, at most 64 KiB.")
    structured_outputs: StructuredOutputs | None = Field(None, description="vLLM's field.")
    guided_json: dict[str, Any] | Text | None = Field(None, description="As structured_outputs.json.")
    guided_regex: Text | None = Field(None, description="As structured_outputs.regex.")
    guided_choice: list[Text] | None = Field(None, description="As structured_outputs.choice.")
    guided_grammar: Text | None = Field(None, description="As structured_outputs.grammar.")


class ChatCompletionRequest(Generation):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, description="As max_tokens, and before it.")
    logprobs: bool | None = Field(None, description="Tell the log-probability of each output token.")
    top_logprobs: int | None = Field(None, description="And of this many likeliest tokens, 0 to 20.")


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]] = Field(
        description="A text, a list of token ids, or up to 64 of either."
    )
    max_tokens: int | None = Field(16, description="Longest output, 1 or more; null: the server's default.")
    logprobs: int | None = Field(None, description="Tell the log-probabilities of this many likeliest tokens, 0 to 20.")
    echo: bool | None = Field(None, description="Begin the text with the prompt; with logprobs, tell the prompt's too.")


# ------------------------------------------------------------------ answers


class Answer(BaseModel):
    """Something that this server writes."""


class PromptTokensDetails(Answer):
    """Where prompt tokens came from."""

    cached_tokens: int = Field(description="Found in the prefix cache and not computed.")


class Usage(Answer):
    """What a request cost."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Answer):
    """One likely token."""

    token: str = Field(description="With U+FFFD for bytes that are no whole character.")
    logprob: float
    bytes: list[int] | None = Field(description="UTF-8 that the token adds to the text; null for special tokens.")


class ChatTokenLogprob(TopLogprob):
    """One output token, and the likeliest ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Of a piece of the output."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class TextLogprobs(Answer):
    """Of a piece of the output; the lists go together."""

    tokens: list[str] = Field(description='A token that is no whole character is written as "bytes:\\\\xe2\\\\x80".')
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


FinishReason = Literal["stop", "length"]
StopReason = str | int | None
STOP_REASON = Field(None, description="The stop string, or the id of the token, that ended the output.")


class AssistantMessage(Answer):
    """The answer of a chat."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(Answer):
    """One output."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason = STOP_REASON


class TextChoice(Answer):
    """One output."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason = STOP_REASON


class ChatCompletion(Answer):
    """Answer to a chat that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Completion(Answer):
    """Answer to a completion that is not streamed."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ChatDelta(Answer):
    """What is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Answer):
    """News of one output."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: StopReason = STOP_REASON


class TextChunkChoice(Answer):
    """News of one output."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: StopReason = STOP_REASON


class ChatCompletionChunk(Answer):
    """One event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChunk(Answer):
    """One event of a streamed completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None


class Model(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None = None
    max_model_len: int = Field(description="Longest prompt plus output, in tokens.")


class ModelList(Answer):
    """All models that are served."""

    object: Literal["list"]
    data: list[Model]


class Error(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """The body of every failure; in a stream that has begun, the last event."""

    error: Error


class Status(Answer):
    """How the server is."""

    status: Literal["ok", "not ready"]


class About(Answer):
    """Which server this is."""

    version: str
    cluster_id: str


def dump(answer: Answer) -> dict[str, Any]:
    """As JSON has it, nulls included."""
    return answer.model_dump(mode="json")
