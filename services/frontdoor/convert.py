"""Messages of the wire to requests and back: every field of a client is checked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.core.errors import InvalidRequestError, ModelNotFoundError, PromptTooLongError
from services.core.request import FinishReason, Request
from services.core.timeline import Timeline
from services.frontdoor.auth import ANYBODY, Identity
from services.frontdoor.call import REQUEST_ID
from services.frontdoor.config import FrontDoorConfig
from services.frontdoor.sampling import sampling_params
from services.frontdoor.structured import GrammarChecker
from services.frontdoor.tokenizer import Tokenizer
from services.kvcache.block import prompt_block_hashes
from services.pb import inference_pb2 as pb

NS_PER_US = 1_000
MAX_PRIORITY = 100
ROLES = ("system", "user", "assistant")
FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the front door knows of the model.

    Attributes:
        name: what clients call it.
        dtype: precision of weights and arithmetic.
        max_len_tokens: longest prompt plus output.
        vocab_size: ids that a client may send are below this.
        eos_token_ids: ids that end an output.
        tokenizer: of the model's folder.
        root_of: start of every chain of block hashes, from the tenant's salt.
        block_size: tokens in one KV block.
        grammars: checks what outputs are to be.
    """

    name: str
    dtype: str
    max_len_tokens: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    tokenizer: Tokenizer
    root_of: Callable[[bytes], bytes]
    block_size: int
    grammars: GrammarChecker = field(default_factory=GrammarChecker)


class Converter:
    """Checks requests for one model and one front door.

    Args:
        model: what is served.
        config: default and bound of output lengths.
        front_door: id to write into requests.
    """

    def __init__(self, model: ServedModel, config: FrontDoorConfig, front_door: str) -> None:
        self._model = model
        self._config = config
        self._front_door = front_door

    def request(self, message: pb.GenerateRequest, deadline_unix_ms: int, identity: Identity = ANYBODY) -> Request:
        """A checked and tokenized request, ready to be routed.

        Args:
            deadline_unix_ms: the client's absolute deadline.
            identity: who asks; prefixes are found only among those of the same tenant.

        Raises:
            InvalidRequestError: a field is wrong; `field` is its proto path.
            PromptTooLongError: prompt plus output is longer than the context window.
            ModelNotFoundError: another model is asked for.
        """
        check_request_id("request_id", message.request_id)
        for name in ("ttft_slo_ms", "tpot_slo_ms"):
            if message.HasField(name) and getattr(message, name) == 0:
                raise InvalidRequestError(name, "must be above 0; leave it out when there is no target")
        if not -MAX_PRIORITY <= message.priority <= MAX_PRIORITY:
            limits = f"between -{MAX_PRIORITY} and {MAX_PRIORITY}"
            raise InvalidRequestError("priority", f"{message.priority} is not {limits}")
        prompt = self.prompt(message)
        sampling = sampling_params(
            message.sampling,
            self._max_tokens(message.sampling, len(prompt)),
            self._model.vocab_size,
            self._model.eos_token_ids,
            self._model.grammars.grammar(message.sampling),
        )
        root = self._model.root_of(identity.salt)
        return Request(
            request_id=message.request_id,
            attempt=1,
            prompt=prompt,
            block_hashes=prompt_block_hashes(root, prompt, self._model.block_size),
            sampling=sampling,
            front_door=self._front_door,
            hash_root=root,
            tenant=identity.tenant,
            deadline_unix_ms=deadline_unix_ms,
            priority=message.priority,
            ttft_slo_ms=message.ttft_slo_ms if message.HasField("ttft_slo_ms") else None,
            tpot_slo_ms=message.tpot_slo_ms if message.HasField("tpot_slo_ms") else None,
        )

    def prompt(self, message: pb.GenerateRequest | pb.CountTokensRequest) -> tuple[int, ...]:
        """Token ids of the one prompt that a message has.

        Raises:
            InvalidRequestError: none, several, empty, or not renderable.
            ModelNotFoundError: another model is asked for.
        """
        if message.model not in ("", self._model.name):
            text = f"model: {message.model!r} is not served here; use {self._model.name!r}"
            raise ModelNotFoundError(text, model=message.model)
        ids: Sequence[int] = message.prompt_token_ids if isinstance(message, pb.GenerateRequest) else ()
        given = [name for name, value in (("messages", message.messages), ("prompt", message.prompt)) if value]
        given += ["prompt_token_ids"] if ids else []
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise InvalidRequestError("messages", f"give exactly one prompt, as messages, text or ids; found {found}")
        if message.messages:
            ids = self._model.tokenizer.encode_chat(conversation(message.messages))
        elif message.prompt:
            ids = self._model.tokenizer.encode(message.prompt)
        for place, token_id in enumerate(ids):
            if token_id >= self._model.vocab_size:  # of a text: the folder's tokenizer knows more than its model
                where = f"prompt_token_ids[{place}]" if given == ["prompt_token_ids"] else given[0]
                raise InvalidRequestError(where, f"{token_id} is not below the vocabulary's {self._model.vocab_size}")
        return tuple(ids)

    def _max_tokens(self, message: pb.Sampling, num_prompt_tokens: int) -> int:
        limit = self._model.max_len_tokens
        room = limit - num_prompt_tokens
        if message.HasField("max_tokens") and message.max_tokens == 0:
            raise InvalidRequestError("sampling.max_tokens", "must be 1 or more")
        wanted = message.max_tokens or min(self._config.max_output_tokens, max(room, 1))
        if wanted > room:
            error = PromptTooLongError(
                "sampling.max_tokens" if room > 0 else "messages",
                f"{num_prompt_tokens} prompt and {wanted} output tokens do not fit the context window of {limit}",
            )
            error.metadata |= {"limit": str(limit), "got": str(num_prompt_tokens + wanted)}
            raise error
        return wanted


def check_request_id(field: str, request_id: str) -> None:
    """Raises:
    InvalidRequestError: the id is empty, too long, or has other characters than the proto allows.
    """
    if not REQUEST_ID.fullmatch(request_id):
        raise InvalidRequestError(field, "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -")


def conversation(messages: Sequence[pb.Message]) -> list[dict[str, str]]:
    """Turns as chat templates want them.

    Raises:
        InvalidRequestError: an unknown role or an empty turn.
    """
    turns = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.role not in ROLES:
            raise InvalidRequestError(f"{where}.role", f"{message.role!r} is not one of {', '.join(ROLES)}")
        if not message.content:
            raise InvalidRequestError(f"{where}.content", "is empty; give at least one part")
        for number, part in enumerate(message.content):
            if part.WhichOneof("part") is None:
                raise InvalidRequestError(f"{where}.content[{number}]", "has no kind that is known here; set `text`")
        turns.append({"role": message.role, "content": "".join(part.text for part in message.content)})
    return turns


def timeline_events(timeline: Timeline) -> list[pb.TimelineEvent]:
    """A request's marks in order of time, as microseconds since its receipt (the first entry)."""
    received_ns = timeline.entries[0].at_ns
    return [
        pb.TimelineEvent(
            name=entry.kind.value,
            worker=entry.where,
            pid=entry.pid,
            offset_us=(entry.at_ns - received_ns) // NS_PER_US,
        )
        for entry in sorted(timeline.entries, key=lambda entry: entry.at_ns)
    ]
